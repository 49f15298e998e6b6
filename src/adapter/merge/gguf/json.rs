//! The JSON files of a model directory.

use std::path::Path;

use serde_json::Value as Json;

use crate::error::{Error, Result};

/// Reads the JSON value in a file.
///
/// # Errors
/// If it cannot be read, or is not JSON.
pub(super) fn read_json(path: &Path) -> Result<Json> {
    let text = std::fs::read_to_string(path).map_err(Error::read(path))?;
    serde_json::from_str(&text).map_err(|e| Error::Model(format!("{}: {e}", path.display())))
}
