//! The differentiable operations, one a file: the plain form beside the fused one, the backward pass beside the
//! forward, and the gradient test under both.
//!
//! Activations are f32, `[T, features]`: one row a token of the packed batch. On the CPU an operation reads slices and
//! hands back an owned buffer; on any other device it falls back to its plain form, and its backward pass to candle's
//! autograd on that form.

pub mod clip;
pub mod frozen_linear;
pub mod gated_act;
pub mod gemm;
pub mod gradient;
pub mod host;
pub mod layer_norm;
pub mod lora_linear;
pub mod oracle;
pub mod profile;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod simd;
#[cfg(test)]
pub(crate) mod testing;
pub mod token_logps;
pub mod tree_attention;
