//! Alignment by optimal transport, paired: Melnyk et al. 2024 (arXiv 2406.05882).
//!
//! The loss compares distributions over the micro-batch rather than individual pairs. Let m_i = log π_θ(chosen) − log
//! π_θ(rejected) for pair i and r_i the same under the reference. Both are sorted, and δ_k = m_(k) − r_(k):
//!
//! `L_k = −(1−ε)·log σ(βδ_k) − ε·log σ(−βδ_k)`, `∂L_k/∂δ_k = β·(−(1−ε)·σ(−βδ_k) + ε·σ(βδ_k))`
//!
//! The loss of rank k is assigned to the pair whose m has that rank. Soft labels are rejected because after sorting no
//! term belongs to a single pair. `train.max_tokens_per_batch` is rejected because it would split the batch.

use serde::{Deserialize, Serialize};

use super::scored::Scored;
use super::terms::{self, Batch, Needs, Terms, Weighed};
use super::transport;
use crate::error::{Problems, Result};

/// Compares the policy's margins with the reference's, rank by rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Aot {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
    /// ε: the assumed share of flipped labels, in [0, 0.5).
    pub label_smoothing: f64,
}

impl Default for Aot {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.0 }
    }
}

impl Terms for Aot {
    fn needs(&self) -> Needs {
        transport::NEEDS
    }

    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
        terms::check_smoothing(self.label_smoothing, problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        let places = transport::indices(batch)?;
        let policy = |at: usize| batch[at].logp - batch[at + 1].logp;
        let reference = |at: usize| {
            let of = |completion: &Scored| completion.ref_logp.unwrap_or(f64::NAN);
            of(&batch[at]) - of(&batch[at + 1])
        };
        let ranks = transport::sorted(&places, policy);
        for (at, other) in ranks.into_iter().zip(transport::sorted(&places, reference)) {
            let delta = policy(at) - reference(other);
            let (loss, slope) = transport::of_difference(self.beta, self.label_smoothing, delta);
            transport::add_loss(batch, at, weight * loss, onto);
            onto.d_logps[at] += weight * slope;
            onto.d_logps[at + 1] -= weight * slope;
        }
        Ok(())
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        completion.log_ratio().map(|ratio| self.beta * ratio)
    }
}
