//! Checkpoints for tests.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

/// Writes (name, storage type, shape, bytes) to one safetensors file.
pub fn write_checkpoint(path: &Path, tensors: &[(&str, &str, &[usize], &[u8])]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let dtype: Dtype = serde_json::from_value((*dtype).into()).unwrap();
        (*name, TensorView::new(dtype, shape.to_vec(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}
