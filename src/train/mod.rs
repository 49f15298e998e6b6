//! Training: what changes the adapter's parameters, step by step.

pub mod config;
pub mod gradients;
pub mod optimizer;
pub mod schedule;
