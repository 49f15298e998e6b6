//! Frozen weights: read from a checkpoint, never written, and mapped rather than copied wherever alignment allows.

mod blocks;
mod elements;
mod finite;
mod frozen;
pub mod gguf;
pub mod nf4;
mod quantise;
mod safetensors;

// For the kernels that dequantise in registers.
#[cfg(target_arch = "x86_64")]
pub(crate) use blocks::NF4_CODES;
pub use blocks::{BlockKind, Blocks, CHUNK};
pub use elements::{DType, Elements};
pub use frozen::FrozenWeight;
pub use quantise::quantise;
pub use safetensors::SafetensorsSource;

use crate::error::Result;
pub use crate::files::FileStamp;

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
