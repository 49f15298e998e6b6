//! Binary classifier optimization: Jung et al. 2024 (arXiv 2404.04656), on pairs.
//!
//! With u and v the rewards β·(log π_θ − log π_ref) of chosen and rejected:
//!
//! `L = −log σ(u) − log σ(−v)`, `∂L/∂u = −σ(−u)`, `∂L/∂v = σ(v)`
//!
//! As in TRL's `DPOTrainer`, the paper's reward shift is 0. A soft label y gives y·L(u, v) + (1−y)·L(v, u).

use serde::{Deserialize, Serialize};

use super::numbers::{sigmoid, softplus};
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Terms, Weighed};
use crate::error::{Problems, Result};

/// A binary classifier whose logit is the reward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BcoPair {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
}

impl Default for BcoPair {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Terms for BcoPair {
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

impl BcoPair {
    fn pair(&self, pair: &Pair) -> PairLoss {
        let beta = self.beta;
        pairs::of_ratios(pair, |a, b| {
            let (u, v) = (beta * a, beta * b);
            [softplus(-u) + softplus(v), -beta * sigmoid(-u), beta * sigmoid(v)]
        })
    }
}
