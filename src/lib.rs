//! Direct Preference Optimization with LoRA.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod hub;
pub mod model;
pub mod objective;
pub mod ops;
pub mod random;
pub mod report;
pub mod train;
pub mod weights;
