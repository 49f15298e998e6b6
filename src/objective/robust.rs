//! Robust DPO: Chowdhury et al. 2024 (arXiv 2403.00409).
//!
//! An unbiased estimate of the DPO loss S if a share ε of the labels is flipped, with x = β·(s_chosen − s_rejected), s
//! the score of a completion (`divergence.rs`) and S(x) = −log σ(x):
//!
//! `L = ((1−ε)·S(x) − ε·S(−x)) / (1−2ε)`, `∂L/∂x = −((1−ε)·σ(−x) + ε·σ(x)) / (1−2ε)`
//!
//! A soft label y gives y·L(x) + (1−y)·L(−x). The loss has no lower bound if ε is above 0.

use serde::{Deserialize, Serialize};

use super::divergence::{Divergence, FDivergenceType};
use super::numbers::{sigmoid, softplus};
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Terms, Weighed};
use crate::error::{Problems, Result};

/// The DPO loss, corrected for flipped labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Robust {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
    /// ε: the share of flipped labels, in [0, 0.5).
    pub label_smoothing: f64,
    /// The divergence that regularizes the policy towards the reference.
    pub f_divergence_type: FDivergenceType,
    /// α of `alpha_divergence`.
    pub f_alpha_divergence_coef: f64,
}

impl Default for Robust {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 0.0,
            f_divergence_type: FDivergenceType::ReverseKl,
            f_alpha_divergence_coef: Divergence::ALPHA,
        }
    }
}

impl Terms for Robust {
    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
        terms::check_smoothing(self.label_smoothing, problems);
        self.divergence().check(problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        pairs::add_pairs(batch, weight, onto, |pair| self.pair(pair))
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        completion.log_ratio().map(|ratio| self.beta * ratio)
    }
}

impl Robust {
    fn divergence(&self) -> Divergence {
        Divergence { kind: self.f_divergence_type, alpha: self.f_alpha_divergence_coef }
    }

    fn pair(&self, pair: &Pair) -> PairLoss {
        let epsilon = self.label_smoothing;
        pairs::of_margin(pair, self.divergence(), |delta| {
            let x = self.beta * delta;
            let clean = (1.0 - epsilon) * softplus(-x) - epsilon * softplus(x);
            let slope = (1.0 - epsilon) * sigmoid(-x) + epsilon * sigmoid(x);
            (clean / (1.0 - 2.0 * epsilon), -self.beta * slope / (1.0 - 2.0 * epsilon))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{logps, pair_of};
    use super::*;

    #[test]
    fn flipped_labels_cancel_in_the_mean() {
        let loss = Robust { beta: 1.0, label_smoothing: 0.25, ..Robust::default() };
        let clean = Robust { label_smoothing: 0.0, ..loss.clone() };
        let batch = logps([1.5, 0.0, 0.0, 0.0]);
        let flipped = batch.map(|completion| Scored { label: 0.0, ..completion });
        // With a quarter of the labels flipped, the mean is the loss of the clean labels.
        let mean = 0.75 * pair_of(&loss, &batch).loss + 0.25 * pair_of(&loss, &flipped).loss;
        assert!((mean - pair_of(&clean, &batch).loss).abs() < 1e-15);
    }
}
