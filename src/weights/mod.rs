//! Frozen weights: read from a checkpoint, never written, and mapped rather than copied wherever alignment allows.

mod blocks;
mod elements;
mod finite;
mod frozen;
pub mod gguf;
pub mod nf4;
mod quantise;
mod safetensors;

pub use blocks::{BlockKind, Blocks, CHUNK};
pub use elements::{DType, Elements};
pub use frozen::FrozenWeight;
pub use quantise::quantise;
pub use safetensors::SafetensorsSource;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// A tensor as stored in its checkpoint, of any type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Storage type by the name of the checkpoint's format (`BF16`, `I64`, ...).
    pub dtype: String,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The bytes, little-endian.
    pub bytes: &'a [u8],
}

/// A file as it was when it was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// Its absolute path, links resolved.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// When it was last written, nanoseconds since 1970.
    pub modified: u64,
}

/// A source of a model's tensors, by their names in the checkpoint.
pub trait WeightSource: Send + Sync {
    /// All tensor names, sorted.
    fn names(&self) -> Vec<String>;

    /// The shape of a tensor, outermost dimension first; `None` if there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// A tensor.
    ///
    /// # Errors
    /// If there is no tensor of this name, or its type is not supported for computing.
    fn get(&self, name: &str) -> Result<FrozenWeight>;

    /// A tensor's bytes as stored, including types that are not supported for computing.
    ///
    /// # Errors
    /// If there is no tensor of this name.
    fn stored(&self, name: &str) -> Result<Stored<'_>>;

    /// The files it was read from, sorted by path.
    fn files(&self) -> Vec<FileStamp>;

    /// Where it was read from, for messages.
    fn describe(&self) -> String;
}

impl FileStamp {
    /// The stamp of an open file.
    ///
    /// # Errors
    /// If the system does not provide the data.
    pub fn of(path: &Path, file: &File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let modified = u64::try_from(modified).unwrap_or(u64::MAX);
        Ok(Self { path: std::fs::canonicalize(path)?, size: metadata.len(), modified })
    }
}
