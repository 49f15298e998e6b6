//! The best evaluation so far by a chosen metric: `metric_for_best_model` and `greater_is_better` of transformers.

use serde::{Deserialize, Serialize};

use crate::eval::preference::Evaluation;

/// The best evaluation so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Its metric value.
    pub value: f64,
    /// The step after which it was made.
    pub step: u64,
}

/// The criterion that decides which evaluation is better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criterion {
    /// The metric's name, including the `eval_` prefix.
    pub metric: String,
    greater: bool,
}

impl Criterion {
    /// Creates a criterion from `metric`, with or without the `eval_` prefix. If `greater` is `None`, greater is
    /// better, except for losses (as in transformers) and divergences.
    pub fn new(metric: &str, greater: Option<bool>) -> Self {
        let metric = if metric.starts_with("eval_") { metric.into() } else { format!("eval_{metric}") };
        let greater = greater.unwrap_or(!(metric.ends_with("loss") || metric.ends_with("kl")));
        Self { metric, greater }
    }

    /// Whether evaluations have this metric.
    pub fn is_known(&self) -> bool {
        Evaluation::METRICS.contains(&self.metric.as_str())
    }

    /// Returns the metric's value.
    pub fn value(&self, found: &Evaluation) -> Option<f64> {
        found.values().into_iter().find(|(name, _)| *name == self.metric).map(|(_, value)| value)
    }

    /// Whether `value` is better than the best so far. NaN never is.
    pub fn is_better(&self, value: f64, best: Option<&Best>) -> bool {
        let better = |best: &Best| if self.greater { value > best.value } else { value < best.value };
        value.is_finite() && best.is_none_or(better)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_those_of_transformers() {
        let best = |value| Some(Best { value, step: 1 });
        let better = |metric: &str, greater, value, than| {
            Criterion::new(metric, greater).is_better(value, best(than).as_ref())
        };
        assert!(better("eval_loss", None, 0.1, 0.2) && !better("loss", None, 0.2, 0.2));
        assert!(
            better("rewards/accuracies", None, 0.9, 0.8) && !better("rewards/accuracies", None, 0.8, 0.8)
        );
        assert!(better("eval_kl", None, 0.1, 0.2) && better("eval_kl", Some(true), 0.2, 0.1));
        assert!(!better("rewards/margins", Some(false), 2.0, 1.0));
    }

    #[test]
    fn what_is_no_number_is_never_the_best() {
        let criterion = Criterion::new("loss", None);
        assert!(!criterion.is_better(f64::NAN, None) && !criterion.is_better(f64::NEG_INFINITY, None));
        assert!(criterion.is_better(0.7, None));
    }

    #[test]
    fn every_metric_of_an_evaluation_is_known() {
        assert!(
            Criterion::new("rewards/margins", None).is_known() && Criterion::new("eval_kl", None).is_known()
        );
        assert!(!Criterion::new("accuracy", None).is_known());
    }
}
