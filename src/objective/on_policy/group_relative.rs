//! GRPO and its relatives: Shao et al. 2024 (arXiv 2402.03300), as TRL 1.16's `GRPOTrainer` computes them, with its keys and
//! defaults.
//!
//! With the ratio `w = π_θ(t)/π_old(t)` of a token (or, with `importance_sampling_level: sequence`, the geometric mean over
//! the completion: GSPO, arXiv 2507.18071) and the advantage A of the completion, the loss of a token is
//!
//! `l_t = −min(min(w, delta)·A, clip(w, 1 − epsilon, 1 + epsilon_high)·A) + beta·k_t·w`,
//! `k_t = e^{x} − x − 1`, `x = log π_ref(t) − log π_θ(t)`
//!
//! where `w` in the last term is there with `use_bias_correction_kl` only. The four losses differ in what the sum is
//! divided by:
//!
//! | loss | mean of l_t |
//! |---|---|
//! | `grpo` | per completion, then over the completions |
//! | `dapo` (arXiv 2503.14476; TRL's default) | over all tokens of the step |
//! | `bnpo` (TRL's former default) | over all tokens of a micro-batch, then over the micro-batches |
//! | `dr_grpo` (arXiv 2503.20783) | the sum over completions × `max_completion_length` |
//!
//! TRL's `cispo`, `sapo`, `luspo` and `vespo`, its entropy terms and its masks do not exist here.

use serde::{Deserialize, Serialize};

use super::super::scored::Scored;
use super::super::terms::{self, Batch, Needs, Terms, Weighed};
use super::{Sampled, StepSize, TokensWeighed, clipped, needs};
use crate::error::{Error, Problems, Result};

/// Whether ratios are of tokens or of whole completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceLevel {
    /// One ratio per token.
    #[default]
    Token,
    /// One ratio per completion, the geometric mean of those of its tokens.
    Sequence,
}

/// What the differences from a group's mean reward are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// The deviation of the group.
    #[default]
    Group,
    /// The deviation of all rewards of the generation.
    Batch,
    /// Nothing.
    None,
}

/// What the losses of the tokens are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalisation {
    /// `grpo`
    Completion,
    /// `dapo`
    Step,
    /// `bnpo`
    MicroBatch,
    /// `dr_grpo`
    Constant,
}

/// The parameters that GRPO and its relatives share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupRelative {
    /// Weight of the divergence from the reference; 0: there is none, and no reference pass.
    pub beta: f64,
    /// How far a ratio may be below 1, and above unless `epsilon_high` is set.
    pub epsilon: f64,
    /// How far a ratio may be above 1; null: `epsilon`.
    pub epsilon_high: Option<f64>,
    /// The greatest ratio for a negative advantage (two-sided clipping, arXiv 2505.07291); null: none.
    pub delta: Option<f64>,
    /// Whether ratios are of tokens or of completions.
    pub importance_sampling_level: ImportanceLevel,
    /// What rewards are scaled by.
    pub scale_rewards: ScaleRewards,
    /// Updates with the completions of one generation.
    pub num_iterations: usize,
    /// Whether completions without an end token have no loss.
    pub mask_truncated_completions: bool,
    /// Whether the divergence of a token is multiplied by its ratio (DeepSeek-V3.2).
    pub use_bias_correction_kl: bool,
}

impl Default for GroupRelative {
    fn default() -> Self {
        Self {
            beta: 0.0,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            importance_sampling_level: ImportanceLevel::Token,
            scale_rewards: ScaleRewards::Group,
            num_iterations: 1,
            mask_truncated_completions: false,
            use_bias_correction_kl: true,
        }
    }
}

impl GroupRelative {
    fn check(&self, problems: &mut Problems) {
        terms::check_weight("beta", self.beta, problems);
        terms::check_weight("epsilon", self.epsilon, problems);
        terms::check_weight("epsilon_high", self.epsilon_high.unwrap_or(0.0), problems);
        let greatest = 1.0 + self.epsilon_high.unwrap_or(self.epsilon);
        problems.require(self.delta.is_none_or(|delta| delta.is_finite() && delta > greatest), || {
            format!(
                "objective.delta is {}; it must be a finite number above 1 + epsilon_high = {greatest}",
                self.delta.unwrap_or_default()
            )
        });
        problems.require(self.num_iterations > 0, || {
            "objective.num_iterations is 0; it must be 1 or more".into()
        });
    }

    /// Returns the share of a step's loss that a micro-batch has, and its gradient.
    pub fn weigh(&self, normalisation: Normalisation, batch: &[Sampled], step: StepSize) -> TokensWeighed {
        let counted = |sampled: &&Sampled| sampled.counts;
        let tokens: usize = batch.iter().filter(counted).map(|sampled| sampled.logps.len()).sum();
        let mut found = TokensWeighed::default();
        for sampled in batch {
            let length = sampled.logps.len().max(1) as f64;
            let divisor = match normalisation {
                Normalisation::Completion => length * step.completions.max(1) as f64,
                Normalisation::Step => step.tokens.max(1) as f64,
                Normalisation::MicroBatch => tokens.max(1) as f64 * step.micro_batches.max(1) as f64,
                Normalisation::Constant => {
                    step.completions.max(1) as f64 * step.max_completion_length.max(1) as f64
                }
            };
            let slopes = match sampled.counts {
                true => self.completion(sampled, 1.0 / divisor, &mut found),
                false => vec![0.0; sampled.logps.len()],
            };
            found.d_logps.push(slopes);
        }
        found
    }

    /// Adds the loss of a completion, whose tokens count `weight` each, and returns its slopes.
    fn completion(&self, sampled: &Sampled, weight: f64, found: &mut TokensWeighed) -> Vec<f64> {
        let bounds = (self.epsilon, self.epsilon_high.unwrap_or(self.epsilon));
        let (n, advantage) = (sampled.logps.len(), sampled.advantage);
        let ratios: Vec<f64> =
            sampled.logps.iter().zip(&sampled.old_logps).map(|(new, old)| new - old).collect();
        let divergences = self.divergences(sampled);
        let mut slopes = vec![0.0; n];
        match self.importance_sampling_level {
            ImportanceLevel::Token => {
                for (t, log_ratio) in ratios.iter().enumerate() {
                    let w = log_ratio.exp();
                    let (loss, slope, is_clipped) = clipped(w, advantage, bounds, self.delta);
                    let (k, d_k) = divergences[t];
                    let (factor, d_factor) = if self.use_bias_correction_kl { (w, w) } else { (1.0, 0.0) };
                    found.loss += weight * (loss + self.beta * k * factor);
                    slopes[t] = weight * (slope * w + self.beta * (d_k * factor + k * d_factor));
                    found.clipped += usize::from(is_clipped);
                }
                found.clippable += n;
            }
            ImportanceLevel::Sequence => {
                let w = (ratios.iter().sum::<f64>() / n.max(1) as f64).exp();
                let (loss, slope, is_clipped) = clipped(w, advantage, bounds, self.delta);
                // Every token has the loss of the completion; each log-prob moves the ratio by w/n.
                let (factor, d_factor) = if self.use_bias_correction_kl { (w, w) } else { (1.0, 0.0) };
                let all: f64 = divergences.iter().map(|(k, _)| k).sum();
                found.loss += weight * (n as f64 * loss + self.beta * factor * all);
                for (slope_t, (_, d_k)) in slopes.iter_mut().zip(&divergences) {
                    let of_ratio = slope * w + self.beta * d_factor * all / n.max(1) as f64;
                    *slope_t = weight * (of_ratio + self.beta * d_k * factor);
                }
                found.clipped += usize::from(is_clipped);
                found.clippable += 1;
            }
        }
        found.kl += divergences.iter().map(|(k, _)| k).sum::<f64>();
        slopes
    }

    /// The divergence estimate of each token (k3 of Schulman 2020) and its slope.
    fn divergences(&self, sampled: &Sampled) -> Vec<(f64, f64)> {
        match &sampled.ref_logps {
            Some(reference) => {
                let both = sampled.logps.iter().zip(reference);
                both.map(|(new, reference)| {
                    let x = reference - new;
                    (x.exp() - x - 1.0, 1.0 - x.exp())
                })
                .collect()
            }
            None => vec![(0.0, 0.0); sampled.logps.len()],
        }
    }
}

/// Declares the losses that differ in their mean.
macro_rules! group_relative {
    ($($(#[$doc:meta])* $name:ident $normalisation:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub GroupRelative);

        impl $name {
            /// What its sum is divided by.
            pub const NORMALISATION: Normalisation = Normalisation::$normalisation;
        }

        impl Terms for $name {
            fn needs(&self) -> Needs {
                let of_micro_batch = Self::NORMALISATION == Normalisation::MicroBatch;
                Needs { whole_batch: of_micro_batch, ..needs(self.0.beta != 0.0) }
            }

            fn check(&self, problems: &mut Problems) {
                self.0.check(problems);
            }

            fn add(&self, _: &Batch, _: f64, _: &mut Weighed) -> Result<()> {
                Err(of_rollouts())
            }

            fn reward(&self, _: &Scored) -> Option<f64> {
                None
            }
        }
    )*};
}

group_relative! {
    /// Group relative policy optimization, with the mean per completion.
    Grpo Completion,
    /// The same with the mean over the tokens of a step (Yu et al. 2025, arXiv 2503.14476).
    Dapo Step,
    /// The same with the mean over the tokens of a micro-batch.
    Bnpo MicroBatch,
    /// The same without a bias by length (Liu et al. 2025, arXiv 2503.20783).
    DrGrpo Constant,
}

/// Why there is no such loss of given completions.
pub(super) fn of_rollouts() -> Error {
    Error::Train("this loss is one of completions that the policy draws, not of given ones".into())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_slopes, sampled};
    use super::*;

    #[test]
    fn slopes_are_those_of_finite_differences() {
        let losses = [
            GroupRelative::default(),
            GroupRelative { beta: 0.3, ..GroupRelative::default() },
            GroupRelative { beta: 0.3, use_bias_correction_kl: false, ..GroupRelative::default() },
            GroupRelative { delta: Some(1.4), epsilon_high: Some(0.28), ..GroupRelative::default() },
            GroupRelative {
                beta: 0.2,
                importance_sampling_level: ImportanceLevel::Sequence,
                ..GroupRelative::default()
            },
            GroupRelative {
                beta: 0.2,
                importance_sampling_level: ImportanceLevel::Sequence,
                use_bias_correction_kl: false,
                ..GroupRelative::default()
            },
        ];
        let step = StepSize { completions: 6, micro_batches: 2, tokens: 17, max_completion_length: 9 };
        for loss in losses {
            for normalisation in [
                Normalisation::Completion,
                Normalisation::Step,
                Normalisation::MicroBatch,
                Normalisation::Constant,
            ] {
                assert_slopes(&sampled(), |batch| {
                    let found = loss.weigh(normalisation, batch, step);
                    (found.loss, found.d_logps)
                });
            }
        }
    }

    /// By hand: one token each, A = 1 and −1, ratios 1.5 and 1.
    #[test]
    fn a_ratio_beyond_the_bound_teaches_nothing() {
        let of = |logp: f64, advantage| Sampled {
            logps: vec![logp],
            old_logps: vec![0.0],
            ref_logps: None,
            advantage,
            counts: true,
        };
        let step = StepSize { completions: 2, micro_batches: 1, tokens: 2, max_completion_length: 5 };
        let batch = [of(1.5f64.ln(), 1.0), of(0.0, -1.0)];
        let found = GroupRelative::default().weigh(Normalisation::Step, &batch, step);
        assert!((found.loss - (-1.2 + 1.0) / 2.0).abs() < 1e-12);
        assert_eq!((found.d_logps, found.clipped, found.clippable), (vec![vec![0.0], vec![0.5]], 1, 2));
        let found = GroupRelative::default().weigh(Normalisation::Constant, &batch, step);
        assert!((found.loss - (-1.2 + 1.0) / 10.0).abs() < 1e-12);
        let masked = [Sampled { counts: false, ..batch[0].clone() }, batch[1].clone()];
        let found = GroupRelative::default().weigh(Normalisation::Completion, &masked, step);
        assert_eq!((found.loss, found.d_logps), (0.5, vec![vec![0.0], vec![0.5]]));
    }

    #[test]
    fn invalid_parameters_are_named() {
        let mut problems = Problems::default();
        GroupRelative { delta: Some(-1.0), epsilon: -1.0, num_iterations: 0, ..GroupRelative::default() }
            .check(&mut problems);
        let said = problems.finish().unwrap_err().to_string();
        for key in ["delta", "epsilon", "num_iterations"] {
            assert!(said.contains(key), "{said}");
        }
    }
}
