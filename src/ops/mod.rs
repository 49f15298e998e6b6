//! The differentiable operations, one a file.
pub mod gemm;
pub mod host;
