//! Rollouts: completions that the policy draws itself, as one more source of training batches.

mod config;
mod draw;

pub use config::{Drawing, RolloutConfig};
pub use draw::{Asked, Generation, asked, draw};
