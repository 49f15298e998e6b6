//! What a frontier consists of.

use serde::Serialize;

use crate::eval::dominance::Comparison;
use crate::eval::frontier::{PerPrompt, Point};

/// The name of the reference in the table.
pub(super) const REFERENCE: &str = "reference";

/// All figures.
#[derive(Serialize)]
pub(super) struct Figures {
    pub(super) reward: String,
    pub(super) max_new_tokens: usize,
    pub(super) points: Vec<Placed>,
    /// Every two series.
    pub(super) compared: Vec<Compared>,
}

/// A point, and whether it is on the frontier.
#[derive(Serialize)]
pub(super) struct Placed {
    #[serde(flatten)]
    pub(super) point: Point,
    pub(super) on_frontier: bool,
    /// Of best-of-N: log N − (N−1)/N.
    pub(super) kl_bound: Option<f64>,
}

/// The frontiers of two series.
#[derive(Serialize)]
pub(super) struct Compared {
    pub(super) first: String,
    pub(super) second: String,
    #[serde(flatten)]
    pub(super) found: Comparison,
}

/// A policy that was measured.
pub(super) struct Measured {
    pub(super) point: Point,
    pub(super) means: PerPrompt,
    pub(super) kl_bound: Option<f64>,
}
