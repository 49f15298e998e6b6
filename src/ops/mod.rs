//! The differentiable operations on the processor, one a file: the backward pass beside the forward, and under both the
//! gradient test, with the plain form and candle's autograd on it as the oracle. An NVIDIA GPU has its own in
//! `model::engine`; nothing here asks where a tensor lives.
//!
//! Activations are f32, `[T, features]`: one row a token of the packed batch. An operation reads slices and hands back an
//! owned buffer.

pub mod clip;
pub mod frozen_linear;
pub mod gated_act;
pub mod gemm;
pub mod gradient;
pub mod host;
pub mod layer_norm;
pub mod lora_linear;
#[cfg(test)]
pub(crate) mod oracle;
pub mod profile;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod simd;
#[cfg(test)]
pub(crate) mod testing;
pub mod token_logps;
pub mod tree_attention;
