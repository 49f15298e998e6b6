//! What changes any loss of pairs with a reference: the part of long answers (LD-DPO), the weight of a pair (WPO), and a β
//! that changes during the run.
//!
//! `ld_alpha` (Liu et al. 2024, arXiv 2409.06411, as in TRL): with n the length of the shorter answer of a pair, the
//! log-prob of an answer, under policy and reference, is `Σ_{t≤n} log π(t) + α·Σ_{t>n} log π(t)`; so the gradient of the
//! tokens beyond n is multiplied by α. `sft` beside such a loss imitates all tokens.
//!
//! `use_weighting` (Zhou et al. 2024, arXiv 2406.11827, equation 2): the loss of a pair, and its gradient, is multiplied by
//! `w(chosen)·w(rejected)`, `w = exp(Σ_t (log π_θ(t) − log Σ_v π_θ(v)²) / tokens)`, which counts as a constant.
//!
//! `beta_end` (ours; TRL has nothing like it): β goes from `beta` in the first step to `beta_end` in the last one, by
//! `beta_schedule`. Evaluations keep `beta`.

use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use super::scored::{Role, Scored, groups};
use super::terms::Weighed;

/// How β goes from its first value to its last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// In equal steps.
    #[default]
    Linear,
    /// Along half a period of a cosine.
    Cosine,
}

impl BetaSchedule {
    /// The share of the way at a share of the run.
    fn share(self, progress: f64) -> f64 {
        match self {
            Self::Linear => progress,
            Self::Cosine => 0.5 - 0.5 * (std::f64::consts::PI * progress).cos(),
        }
    }
}

/// Settings that change a loss, whichever it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Modifiers {
    /// α of LD-DPO, in [0, 1]; null: 1 everywhere.
    pub ld_alpha: Option<f64>,
    /// Whether pairs are weighted as in WPO.
    pub use_weighting: bool,
    /// β in the last step; null: that of the first one.
    pub beta_end: Option<f64>,
    /// How β goes there.
    pub beta_schedule: BetaSchedule,
}

impl Modifiers {
    /// Returns the settings by key.
    pub(super) fn fields(&self) -> Vec<(String, Value)> {
        match serde_yaml::to_value(self) {
            Ok(Value::Mapping(fields)) => {
                let named = |(key, value): (Value, Value)| Some((key.as_str()?.to_string(), value));
                fields.into_iter().filter_map(named).collect()
            }
            // Not reached: it is a struct of plain numbers and words.
            _ => Vec::new(),
        }
    }

    /// Returns β at a share of the run, from 0 in its first step to 1 in its last one.
    pub(super) fn beta(&self, first: f64, progress: f64) -> Option<f64> {
        let last = self.beta_end?;
        Some(first + (last - first) * self.beta_schedule.share(progress.clamp(0.0, 1.0)))
    }
}

/// Returns the batch with each tail times `alpha` in the completion that it belongs to. Without tails it is the same batch.
pub(super) fn folded(batch: &[Scored], alpha: f64) -> Vec<Scored> {
    let mut all = Vec::with_capacity(batch.len());
    for group in groups(batch) {
        let first = all.len();
        for scored in group {
            let Role::Tail(of) = scored.role else {
                all.push(*scored);
                continue;
            };
            if let Some(whole) = all.get_mut(first + of) {
                let whole: &mut Scored = whole;
                whole.logp += alpha * scored.logp;
                whole.ref_logp = whole.ref_logp.zip(scored.ref_logp).map(|(own, tail)| own + alpha * tail);
                whole.tokens += scored.tokens;
            }
        }
    }
    all
}

/// Adds to `onto`, which has an entry for each of `batch`, the loss of the folded batch and its gradient.
pub(super) fn unfold(batch: &[Scored], alpha: f64, found: Weighed, onto: &mut Weighed) {
    onto.losses.iter_mut().zip(&found.losses).for_each(|(sum, loss)| *sum += loss);
    onto.figures.extend(found.figures);
    let (mut first, mut at) = (0, 0);
    for group in groups(batch) {
        let mut whole = 0;
        for scored in group {
            match scored.role {
                Role::Tail(of) => {
                    onto.d_logps[at] += alpha * found.d_logps.get(first + of).copied().unwrap_or(0.0);
                }
                _ => {
                    onto.d_logps[at] += found.d_logps[first + whole];
                    whole += 1;
                }
            }
            at += 1;
        }
        first += whole;
    }
}

/// Multiplies the loss of each pair and its gradient by its weight. `aligned` has Σ_t (log π_θ − log Σ π_θ²) of each entry.
pub(super) fn weight(batch: &[Scored], aligned: &[f64], found: &mut Weighed) {
    let mut first = 0;
    for (group, loss) in groups(batch).zip(&mut found.losses) {
        let entries = first..first + group.len();
        let mut sums = [(0.0, 0); 2];
        for (scored, aligned) in group.iter().zip(&aligned[entries.clone()]) {
            let side = match scored.role {
                Role::Chosen | Role::Tail(0) => 0,
                Role::Rejected | Role::Tail(_) => 1,
                _ => continue,
            };
            sums[side].0 += aligned;
            sums[side].1 += scored.tokens;
        }
        let weight: f64 = sums.iter().map(|(sum, tokens)| (sum / (*tokens).max(1) as f64).exp()).product();
        *loss *= weight;
        found.d_logps[entries].iter_mut().for_each(|slope| *slope *= weight);
        first += group.len();
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::logps;
    use super::super::{Ipo, Objective, Sft, Sigmoid};
    use super::*;

    /// A pair of 4 and 3 tokens whose chosen completion has a tail of one token.
    fn tailed(tail: f64) -> Vec<Scored> {
        let [chosen, rejected] = logps([-41.5, -37.25, -44.0, -36.0]);
        let head = Scored { logp: chosen.logp - tail, ref_logp: Some(-40.0), tokens: 3, ..chosen };
        let end =
            |of, logp, ref_logp, tokens| Scored { role: Role::Tail(of), logp, ref_logp, tokens, ..chosen };
        vec![head, rejected, end(0, tail, Some(-4.0), 1), end(1, 0.0, Some(0.0), 0)]
    }

    fn modified(objective: Objective, modifiers: Modifiers) -> Objective {
        Objective { modifiers, ..objective }
    }

    #[test]
    fn alpha_one_is_the_loss_itself_and_alpha_zero_leaves_the_tail_out() {
        let with = |alpha| {
            let modifiers = Modifiers { ld_alpha: Some(alpha), ..Modifiers::default() };
            modified(Objective::default(), modifiers).weigh(&tailed(-2.5)).unwrap()
        };
        let plain = Objective::default().weigh(&logps([-41.5, -37.25, -44.0, -36.0])).unwrap();
        let whole = with(1.0);
        assert!((whole.losses[0] - plain.losses[0]).abs() < 1e-12);
        assert!((whole.d_logps[2] - plain.d_logps[0]).abs() < 1e-12 && whole.d_logps[0] == whole.d_logps[2]);
        let short = Objective::default().weigh(&logps([-39.0, -37.25, -40.0, -36.0])).unwrap();
        assert!((with(0.0).losses[0] - short.losses[0]).abs() < 1e-12);
        assert_eq!(with(0.0).d_logps[2], 0.0);
    }

    #[test]
    fn gradients_agree_with_finite_differences_also_beside_sft() {
        let losses: Vec<_> =
            [(Sigmoid::default().into(), 1.0), (Ipo::default().into(), 0.5), (Sft {}.into(), 0.3)].into();
        let modifiers = Modifiers { ld_alpha: Some(0.3), ..Modifiers::default() };
        let objective = Objective { losses, modifiers };
        let batch = tailed(-2.5);
        let total = |batch: &[Scored]| objective.weigh(batch).unwrap().losses.iter().sum::<f64>();
        for (i, slope) in objective.weigh(&batch).unwrap().d_logps.iter().enumerate().take(3) {
            let moved = |by: f64| {
                let mut batch = batch.clone();
                batch[i].logp += by;
                total(&batch)
            };
            let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((slope - expected).abs() < 1e-7, "{i}: {slope} {expected}");
        }
    }

    #[test]
    fn beta_goes_from_first_to_last() {
        let modifiers =
            |beta_schedule| Modifiers { beta_end: Some(0.5), beta_schedule, ..Modifiers::default() };
        for schedule in [BetaSchedule::Linear, BetaSchedule::Cosine] {
            let at = |progress| modifiers(schedule).beta(0.1, progress).unwrap();
            assert!(
                (at(0.0) - 0.1).abs() < 1e-15
                    && (at(1.0) - 0.5).abs() < 1e-15
                    && (at(0.5) - 0.3).abs() < 1e-15
            );
        }
        assert_eq!(Modifiers::default().beta(0.1, 0.5), None);
        // cos(π/4) = √½
        let quarter = modifiers(BetaSchedule::Cosine).beta(0.0, 0.25).unwrap();
        assert!((quarter - 0.25 * (1.0 - 0.5f64.sqrt())).abs() < 1e-15);
    }
}
