//! The name of an input, for origins and messages.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::example::Origin;
use crate::error::Error;

/// The name of an input.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The path that errors of the operating system name.
    pub(super) path: PathBuf,
    /// The name in origins.
    pub(super) name: Arc<str>,
}

impl Place {
    pub(super) fn new(path: PathBuf, name: Arc<str>) -> Self {
        Self { path, name }
    }

    /// The origin of a line or row, counted from 1.
    pub(super) fn row(&self, number: usize) -> Origin {
        Origin::new(self.name.clone(), number)
    }

    /// An error about the input as a whole.
    pub(super) fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::Data(format!("{}: {message}", self.name))
    }
}
