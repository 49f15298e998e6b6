//! Logged metrics: means over the steps since the last log line, and the gradient's norm.

use serde::{Deserialize, Serialize};

use super::step::Outcome;
use crate::objective::Metrics;

/// Sums since the last log line. They are part of a checkpoint, so that a resumed run logs the same as an uninterrupted
/// one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    metrics: Metrics,
    /// The norm of the last step's gradient, as TRL logs it.
    grad_norm: f64,
    /// The greatest of the steps' norms: neither a mean nor the last one shows a spike.
    #[serde(default)]
    greatest_grad_norm: f64,
    steps: u64,
    tokens: u64,
    seconds: f64,
}

impl Window {
    /// Adds the outcome of a step that was not skipped.
    pub fn add(&mut self, outcome: &Outcome) {
        self.metrics.merge(&outcome.metrics);
        self.grad_norm = outcome.grad_norm;
        self.greatest_grad_norm = self.greatest_grad_norm.max(outcome.grad_norm);
        self.steps += 1;
        self.tokens += outcome.tokens as u64;
        self.seconds += outcome.seconds;
    }

    /// Whether no step has been added.
    pub fn is_empty(&self) -> bool {
        self.steps == 0
    }

    /// Returns the figures under TRL's names, and the greatest norm of a gradient if there are several.
    pub fn values(&self, learning_rate: f64) -> Vec<(&'static str, f64)> {
        let steps = self.steps.max(1) as f64;
        let mut values = self.metrics.means();
        values.push(("grad_norm", self.grad_norm));
        if self.steps > 1 {
            values.push(("grad_norm_max", self.greatest_grad_norm));
        }
        values.extend([
            ("learning_rate", learning_rate),
            ("step_seconds", self.seconds / steps),
            ("tokens_per_second", if self.seconds > 0.0 { self.tokens as f64 / self.seconds } else { 0.0 }),
        ]);
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradients_norm_is_the_last_one_beside_the_greatest() {
        let step = |grad_norm| Outcome {
            metrics: Metrics::default(),
            grad_norm,
            tokens: 10,
            seconds: 2.0,
            finite: true,
            skipped: None,
        };
        let mut window = Window::default();
        window.add(&step(2.0));
        let value = |window: &Window, name: &str| {
            window.values(0.1).into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        assert_eq!((value(&window, "grad_norm"), value(&window, "grad_norm_max")), (Some(2.0), None));
        window.add(&step(9.0));
        window.add(&step(3.0));
        assert_eq!((value(&window, "grad_norm"), value(&window, "grad_norm_max")), (Some(3.0), Some(9.0)));
        assert_eq!(
            (value(&window, "step_seconds"), value(&window, "tokens_per_second")),
            (Some(2.0), Some(5.0))
        );
        // A checkpoint of a version that noted no greatest norm.
        let mut old = serde_json::to_value(&window).unwrap();
        old.as_object_mut().unwrap().remove("greatest_grad_norm");
        let mut old: Window = serde_json::from_value(old).unwrap();
        old.add(&step(4.0));
        assert_eq!((value(&old, "grad_norm"), value(&old, "grad_norm_max")), (Some(4.0), Some(4.0)));
    }
}
