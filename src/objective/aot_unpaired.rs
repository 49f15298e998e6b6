//! Alignment by optimal transport, unpaired: Melnyk et al. 2024 (arXiv 2406.05882).
//!
//! The loss compares distributions over the micro-batch rather than individual pairs. Let a_i and b_i be the log-ratios
//! log π_θ − log π_ref of the chosen and the rejected completion of pair i. Both are sorted, and δ_k = a_(k) − b_(k):
//!
//! `L_k = −(1−ε)·log σ(βδ_k) − ε·log σ(−βδ_k)`, `∂L_k/∂δ_k = β·(−(1−ε)·σ(−βδ_k) + ε·σ(βδ_k))`
//!
//! The loss of rank k is assigned to the pair whose a has that rank. Soft labels and `train.max_tokens_per_batch` are
//! rejected, as in `aot`.

use serde::{Deserialize, Serialize};

use super::scored::Scored;
use super::terms::{self, Batch, Needs, Terms, Weighed};
use super::transport;
use crate::error::{Problems, Result};

/// Compares the rewards of the chosen completions with those of the rejected ones, rank by rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AotUnpaired {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
    /// ε: the assumed share of flipped labels, in [0, 0.5).
    pub label_smoothing: f64,
}

impl Default for AotUnpaired {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.0 }
    }
}

impl Terms for AotUnpaired {
    fn needs(&self) -> Needs {
        transport::NEEDS
    }

    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
        terms::check_smoothing(self.label_smoothing, problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        let places = transport::indices(batch)?;
        let chosen = transport::sorted(&places, |at| transport::ratio(&batch[at]));
        let rejected = transport::sorted(&places, |at| transport::ratio(&batch[at + 1]));
        for (at, other) in chosen.into_iter().zip(rejected) {
            let delta = transport::ratio(&batch[at]) - transport::ratio(&batch[other + 1]);
            let (loss, slope) = transport::of_difference(self.beta, self.label_smoothing, delta);
            transport::add_loss(batch, at, weight * loss, onto);
            onto.d_logps[at] += weight * slope;
            onto.d_logps[other + 1] -= weight * slope;
        }
        Ok(())
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        completion.log_ratio().map(|ratio| self.beta * ratio)
    }
}
