//! RLOO: Ahmadian et al. 2024 (arXiv 2402.14740), as TRL 1.16's `RLOOTrainer` computes it, with its keys and defaults.
//!
//! The reward of a completion is that of the reward functions, clipped to `reward_clip_range`, minus `beta` times
//! `Σ_t log π_old(t) − log π_ref(t)`; its advantage A is the difference from the mean of the others of its group. With the
//! ratio `w = π_θ(y)/π_old(y)` of the whole completion:
//!
//! `L = mean over completions of −min(w·A, clip(w, 1 − epsilon, 1 + epsilon_high)·A)`

use serde::{Deserialize, Serialize};

use super::super::scored::Scored;
use super::super::terms::{self, Batch, Needs, Terms, Weighed};
use super::group_relative::of_rollouts;
use super::{Sampled, StepSize, TokensWeighed, clipped, needs};
use crate::error::{Problems, Result};

/// REINFORCE with the other completions of a prompt as the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rloo {
    /// Weight of the divergence from the reference in the reward; 0: there is none, and no reference pass.
    pub beta: f64,
    /// How far a ratio may be below 1, and above unless `epsilon_high` is set.
    pub epsilon: f64,
    /// How far a ratio may be above 1; null: `epsilon`.
    pub epsilon_high: Option<f64>,
    /// Whether advantages are normalised over the generation.
    pub normalize_advantages: bool,
    /// Least and greatest reward; null: rewards are not clipped.
    pub reward_clip_range: Option<[f64; 2]>,
    /// Updates with the completions of one generation.
    pub num_iterations: usize,
    /// Whether completions without an end token have no loss.
    pub mask_truncated_completions: bool,
}

impl Default for Rloo {
    fn default() -> Self {
        Self {
            beta: 0.05,
            epsilon: 0.2,
            epsilon_high: None,
            normalize_advantages: false,
            reward_clip_range: None,
            num_iterations: 1,
            mask_truncated_completions: false,
        }
    }
}

impl Terms for Rloo {
    fn needs(&self) -> Needs {
        needs(self.beta != 0.0)
    }

    fn check(&self, problems: &mut Problems) {
        terms::check_weight("beta", self.beta, problems);
        terms::check_weight("epsilon", self.epsilon, problems);
        terms::check_weight("epsilon_high", self.epsilon_high.unwrap_or(0.0), problems);
        let [least, greatest] = self.reward_clip_range.unwrap_or([0.0, 1.0]);
        problems.require(least < greatest, || {
            format!(
                "objective.reward_clip_range is [{least}, {greatest}]; the first must be below the second"
            )
        });
        problems.require(self.num_iterations > 0, || {
            "objective.num_iterations is 0; it must be 1 or more".into()
        });
    }

    fn add(&self, _: &Batch, _: f64, _: &mut Weighed) -> Result<()> {
        Err(of_rollouts())
    }

    fn reward(&self, _: &Scored) -> Option<f64> {
        None
    }
}

impl Rloo {
    /// Returns the reward with the divergence of a completion: Σ log π_old − log π_ref, nats.
    pub fn penalised(&self, reward: f64, divergence: f64) -> f64 {
        let clipped =
            self.reward_clip_range.map_or(reward, |[least, most]| reward.clamp(least, most.max(least)));
        clipped - self.beta * divergence
    }

    /// Returns the share of a step's loss that a micro-batch has, and its gradient.
    pub fn weigh(&self, batch: &[Sampled], step: StepSize) -> TokensWeighed {
        let bounds = (self.epsilon, self.epsilon_high.unwrap_or(self.epsilon));
        let weight = 1.0 / step.completions.max(1) as f64;
        let mut found = TokensWeighed::default();
        for sampled in batch {
            if !sampled.counts {
                found.d_logps.push(vec![0.0; sampled.logps.len()]);
                continue;
            }
            let log_ratio: f64 = sampled.logps.iter().sum::<f64>() - sampled.old_logps.iter().sum::<f64>();
            let w = log_ratio.exp();
            let (loss, slope, is_clipped) = clipped(w, sampled.advantage, bounds, None);
            found.loss += weight * loss;
            found.d_logps.push(vec![weight * slope * w; sampled.logps.len()]);
            found.clipped += usize::from(is_clipped);
            found.clippable += 1;
            if let Some(reference) = &sampled.ref_logps {
                found.kl += sampled.old_logps.iter().sum::<f64>() - reference.iter().sum::<f64>();
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_slopes, sampled};
    use super::*;

    #[test]
    fn slopes_are_those_of_finite_differences() {
        let step = StepSize { completions: 5, micro_batches: 1, tokens: 17, max_completion_length: 9 };
        for loss in [Rloo::default(), Rloo { epsilon: 0.9, epsilon_high: Some(3.0), ..Rloo::default() }] {
            assert_slopes(&sampled(), |batch| {
                let found = loss.weigh(batch, step);
                (found.loss, found.d_logps)
            });
        }
    }

    #[test]
    fn rewards_are_clipped_and_then_penalised() {
        let loss = Rloo { reward_clip_range: Some([-1.0, 2.0]), beta: 0.1, ..Rloo::default() };
        assert_eq!([5.0, 1.0, -3.0].map(|reward| loss.penalised(reward, 10.0)), [1.0, 0.0, -2.0]);
        let mut problems = Problems::default();
        Rloo { reward_clip_range: Some([1.0, 1.0]), ..loss }.check(&mut problems);
        assert!(!problems.is_empty());
    }
}
