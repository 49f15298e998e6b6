//! Triple preference optimization: Saeidi et al. 2024 (arXiv 2405.16681).
//!
//! DPO without a reference policy, plus the negative log-likelihood of a third answer, the gold one, which TRL's data have
//! in the column `reference`. With δ = log π_θ(chosen) − log π_θ(rejected), the log-probs of whole completions, and N the
//! number of tokens in the micro-batch's gold answers:
//!
//! `L = −(1−ε)·log σ(βδ) − ε·log σ(−βδ) + tpo_alpha·(−Σ log π_θ(gold)/N)`, `∂L/∂δ = β·(−(1−ε)·σ(−βδ) + ε·σ(βδ))`
//!
//! Keys and defaults are those of TRL's `TPOConfig`; its `loss_type: sigmoid` is called `tpo` here, because `sigmoid` is
//! DPO, and its `hinge`, `ipo` and `tpo-l` are `tpo_hinge`, `tpo_ipo` and `tpo_l`. A soft label y gives y·L(δ) +
//! (1−y)·L(−δ); the gold answer is imitated whatever the label.

use serde::{Deserialize, Serialize};

use super::pairs;
use super::scored::Scored;
use super::terms::{self, Batch, Needs, Terms, Weighed};
use super::triples::{self, Divided};
use crate::error::{Problems, Result};

/// Binary cross-entropy of the policy's own margin, plus imitation of the gold answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tpo {
    /// Scale of the rewards, above 0.
    pub beta: f64,
    /// ε: the assumed share of flipped labels, in [0, 0.5).
    pub label_smoothing: f64,
    /// Weight of the negative log-likelihood of the gold answer; 0 needs none.
    pub tpo_alpha: f64,
}

impl Default for Tpo {
    fn default() -> Self {
        Self { beta: triples::BETA, label_smoothing: 0.0, tpo_alpha: 1.0 }
    }
}

impl Terms for Tpo {
    fn needs(&self) -> Needs {
        triples::needs(self.tpo_alpha)
    }

    fn check(&self, problems: &mut Problems) {
        triples::check(self.beta, self.tpo_alpha, problems);
        terms::check_smoothing(self.label_smoothing, problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        triples::add(batch, (weight, self.tpo_alpha), Divided::Not, onto, |delta| {
            let (loss, slope) = pairs::cross_entropy(self.beta * delta, 1.0 - self.label_smoothing);
            (loss, self.beta * slope)
        })
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        Some(self.beta * completion.logp)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{batch_for, weigh};
    use super::*;

    #[test]
    fn the_gold_answers_share_one_mean_over_tokens() {
        let (loss, none) =
            (Tpo { tpo_alpha: 0.5, ..Tpo::default() }, Tpo { tpo_alpha: 0.0, ..Tpo::default() });
        let batch = batch_for(&loss, 1.0, 1.0);
        let gold: Vec<usize> = (2..batch.len()).step_by(3).collect();
        let tokens: usize = gold.iter().map(|at| batch[*at].tokens).sum();
        let (with, without) = (weigh(&loss, &batch), weigh(&none, &batch));
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let expected = -gold.iter().map(|at| batch[*at].logp).sum::<f64>() / tokens as f64;
        let found = (mean(&with.losses) - mean(&without.losses)) / 0.5;
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        for at in gold {
            assert_eq!(without.d_logps[at], 0.0);
            // A step divides by the 3 records.
            assert!((with.d_logps[at] / 3.0 + 0.5 / tokens as f64).abs() < 1e-15);
        }
    }
}
