//! Evaluation of a policy on pairs it was not trained on.

pub mod calibration;
pub mod preference;
