//! Frozen weights: read from a checkpoint, never written, mapped rather than copied wherever their bytes allow it.

mod elements;
mod frozen;
mod safetensors;

pub use elements::{DType, Elements};
pub use frozen::FrozenWeight;
pub use safetensors::SafetensorsSource;

use crate::error::Result;

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

    /// Where it was read from, for messages.
    fn describe(&self) -> String;
}
