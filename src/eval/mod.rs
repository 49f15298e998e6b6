//! Evaluation of a policy on pairs it was not trained on, and on its own samples.
//!
//! [`preference`], [`together`] and [`finite`] need a decoder; all others are pure functions of what was scored, drawn or
//! judged.

pub(crate) mod batches;
pub mod bootstrap;
pub mod calibration;
pub mod displacement;
pub mod dominance;
pub mod figures;
pub mod finite;
pub mod frontier;
pub mod learning_curve;
pub mod outcomes;
pub mod preference;
pub mod together;
pub mod win_rate;
