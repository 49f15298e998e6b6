//! Log-probabilities of a pair → loss, gradient, rewards and metrics. Pure functions; never sees a model.
//!
//! A new loss is one file with a `pair` function, one variant of [`LossType`] and one arm in [`ObjectiveConfig::pair`].

mod metrics;
mod sigmoid;

pub use metrics::Metrics;

use serde::{Deserialize, Serialize};

use crate::error::{Problems, Result};

/// Which loss is minimised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Binary cross-entropy over policies (Rafailov et al. 2023, arXiv 2305.18290, equation 7).
    #[default]
    Sigmoid,
}

/// The `objective` section of a run's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveConfig {
    /// The loss.
    pub loss_type: LossType,
    /// Strength of the pull towards the reference, above 0; rewards are in units of it.
    pub beta: f64,
    /// ε: the share of labels taken to be flipped (cDPO), in [0, 0.5).
    pub label_smoothing: f64,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self { loss_type: LossType::Sigmoid, beta: 0.1, label_smoothing: 0.0 }
    }
}

/// Log-probabilities of a pair's completions given their prompt: sums over completion tokens, nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLogps {
    /// log π_θ(chosen | prompt).
    pub chosen: f64,
    /// log π_θ(rejected | prompt).
    pub rejected: f64,
    /// log π_ref(chosen | prompt).
    pub ref_chosen: f64,
    /// log π_ref(rejected | prompt).
    pub ref_rejected: f64,
}

/// A pair's loss, its gradient and its implicit rewards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLoss {
    /// The loss, nats.
    pub loss: f64,
    /// ∂loss / ∂ log π_θ(chosen).
    pub d_chosen: f64,
    /// ∂loss / ∂ log π_θ(rejected).
    pub d_rejected: f64,
    /// β·(log π_θ − log π_ref) of the chosen completion.
    pub reward_chosen: f64,
    /// The same of the rejected completion.
    pub reward_rejected: f64,
}

impl PairLoss {
    /// Chosen minus rejected reward.
    pub fn margin(&self) -> f64 {
        self.reward_chosen - self.reward_rejected
    }
}

impl ObjectiveConfig {
    /// # Errors
    /// [`crate::error::Error::Config`] naming every value that cannot be, and its remedy.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Problems::default();
        problems.require(self.beta.is_finite() && self.beta > 0.0, || {
            format!("objective.beta is {}; it must be a finite number above 0, such as 0.1", self.beta)
        });
        problems.require((0.0..0.5).contains(&self.label_smoothing), || {
            format!(
                "objective.label_smoothing is {}; it must be in [0, 0.5): at 0.5 the labels say nothing",
                self.label_smoothing
            )
        });
        problems.finish()
    }

    /// The loss of one pair. `label` in [0, 1] is the label that chosen is preferred (1: certainly).
    pub fn pair(&self, logps: &PairLogps, label: f64) -> PairLoss {
        match self.loss_type {
            LossType::Sigmoid => sigmoid::pair(logps, self.target(label), self.beta),
        }
    }

    /// The cross-entropy's target, y·(1−ε) + (1−y)·ε.
    fn target(&self, label: f64) -> f64 {
        label * (1.0 - self.label_smoothing) + (1.0 - label) * self.label_smoothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_named_together() {
        let config = ObjectiveConfig { beta: 0.0, label_smoothing: 0.5, ..Default::default() };
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains("objective.beta is 0;"), "{message}");
        assert!(message.contains("objective.label_smoothing is 0.5;"), "{message}");
        assert!(ObjectiveConfig { beta: f64::NAN, ..Default::default() }.validate().is_err());
        assert!(ObjectiveConfig::default().validate().is_ok());
    }

    #[test]
    fn smoothing_moves_the_target() {
        let config = ObjectiveConfig { label_smoothing: 0.1, ..Default::default() };
        // y = 0.75: 0.75 · 0.9 + 0.25 · 0.1 = 0.7
        assert!((config.target(0.75) - 0.7).abs() < 1e-15);
        assert!((config.target(0.0) - 0.1).abs() < 1e-15);
    }

    #[test]
    fn unknown_losses_and_keys_are_refused() {
        assert!(serde_yaml::from_str::<ObjectiveConfig>("loss_type: hinged").is_err());
        assert!(serde_yaml::from_str::<ObjectiveConfig>("bta: 0.1").is_err());
        let config: ObjectiveConfig = serde_yaml::from_str("beta: 5e-1").unwrap();
        assert!((config.beta - 0.5).abs() < 1e-15);
    }
}
