//! Training: updates the adapter's parameters step by step.

pub mod batches;
pub mod best;
pub mod card;
pub mod checkpoint;
pub mod config;
pub mod course;
pub mod descent;
pub mod eva;
pub mod gradients;
pub mod memory;
pub mod nccl;
pub mod optimizer;
pub mod plan;
pub mod reference;
pub mod rollouts;
pub mod run_dir;
pub mod samples;
pub mod schedule;
pub mod step;
mod summands;
pub mod trainer;
pub mod usable;
pub mod watch;
pub mod window;
