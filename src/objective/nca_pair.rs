//! Noise contrastive alignment: Chen et al. 2024 (arXiv 2402.05369), the NCA loss for two completions.
//!
//! With u and v the rewards β·(log π_θ − log π_ref) of chosen and rejected:
//!
//! `L = −log σ(u) − ½·log σ(−u) − ½·log σ(−v)`, `∂L/∂u = −σ(−u) + ½·σ(u)`, `∂L/∂v = ½·σ(v)`
//!
//! The loss anchors each reward, not only their difference, so that the likelihood of the chosen completion is less
//! likely to fall. A soft label y gives y·L(u, v) + (1−y)·L(v, u).

use serde::{Deserialize, Serialize};

use super::numbers::{sigmoid, softplus};
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Terms, Weighed};
use crate::error::{Problems, Result};

/// Contrasts each completion with noise from the reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NcaPair {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
}

impl Default for NcaPair {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Terms for NcaPair {
    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        pairs::add_pairs(batch, weight, onto, |pair| self.pair(pair))
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        completion.log_ratio().map(|ratio| self.beta * ratio)
    }
}

impl NcaPair {
    fn pair(&self, pair: &Pair) -> PairLoss {
        let beta = self.beta;
        pairs::of_ratios(pair, |a, b| {
            let (u, v) = (beta * a, beta * b);
            let loss = softplus(-u) + 0.5 * softplus(u) + 0.5 * softplus(v);
            [loss, beta * (0.5 * sigmoid(u) - sigmoid(-u)), beta * 0.5 * sigmoid(v)]
        })
    }
}
