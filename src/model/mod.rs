//! The model: which weights, which modules carry LoRA.

pub mod config;
pub mod targets;
