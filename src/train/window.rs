//! Logged metrics: means over the steps since the last log line.

use serde::{Deserialize, Serialize};

use super::step::Outcome;
use crate::objective::Metrics;

/// Sums since the last log line. They are part of a checkpoint, so that a resumed run logs the same as an uninterrupted
/// one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    metrics: Metrics,
    grad_norm: f64,
    steps: u64,
    tokens: u64,
    seconds: f64,
}

impl Window {
    /// Adds the outcome of a step that was not skipped.
    pub fn add(&mut self, outcome: &Outcome) {
        self.metrics.merge(&outcome.metrics);
        self.grad_norm += outcome.grad_norm;
        self.steps += 1;
        self.tokens += outcome.tokens as u64;
        self.seconds += outcome.seconds;
    }

    /// Whether no step has been added.
    pub fn is_empty(&self) -> bool {
        self.steps == 0
    }

    /// Returns the means under TRL's names.
    pub fn values(&self, learning_rate: f64) -> Vec<(&'static str, f64)> {
        let steps = self.steps.max(1) as f64;
        let mut values = self.metrics.means();
        values.extend([
            ("grad_norm", self.grad_norm / steps),
            ("learning_rate", learning_rate),
            ("step_seconds", self.seconds / steps),
            ("tokens_per_second", if self.seconds > 0.0 { self.tokens as f64 / self.seconds } else { 0.0 }),
        ]);
        values
    }
}
