//! Frozen weights: read from a checkpoint, never written, mapped rather than copied wherever their bytes allow it.

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

/// A tensor as its checkpoint stores it, of whatever type.
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

/// Where a model's tensors come from, by the names of its checkpoint.
pub trait WeightSource: Send + Sync {
    /// All tensor names, sorted.
    fn names(&self) -> Vec<String>;

    /// Shape of a tensor, outermost dimension first; `None` when there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// A tensor.
    ///
    /// # Errors
    /// If there is none of this name, or its bytes are not numbers we compute with.
    fn get(&self, name: &str) -> Result<FrozenWeight>;

    /// A tensor's bytes as they are stored, also those that are not numbers we compute with.
    ///
    /// # Errors
    /// If there is none of this name.
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
    /// If the system does not say.
    pub fn of(path: &Path, file: &File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let modified = u64::try_from(modified).unwrap_or(u64::MAX);
        Ok(Self { path: std::fs::canonicalize(path)?, size: metadata.len(), modified })
    }
}
