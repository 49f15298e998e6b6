//! Direct Preference Optimization with LoRA.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod data;
pub mod error;
