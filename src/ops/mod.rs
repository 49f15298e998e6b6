//! The differentiable operations on the CPU. Each file holds one operation: the forward pass, the backward pass, and
//! the gradient test, whose oracle is candle's autograd on the plain form. An NVIDIA GPU has its own operations in
//! `model::engine`; nothing here checks where a tensor lives.
//!
//! Activations are f32, `[T, features]`, with one row per token of the packed batch. An operation reads slices and
//! returns an owned buffer.

pub mod awake;
pub mod clip;
pub mod frozen_linear;
pub mod gated_act;
pub mod gemm;
pub mod gradient;
pub mod host;
pub mod incremental_pca;
pub mod layer_norm;
pub mod lora_linear;
#[cfg(test)]
pub(crate) mod oracle;
pub mod profile;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod simd;
pub mod svd;
pub mod symmetric;
mod tensor;
#[cfg(test)]
pub(crate) mod testing;
pub mod token_logps;
pub mod tree_attention;

pub use tensor::Tensor;
