//! Anchored preference optimization, zero: D'Oosterlinck et al. 2024 (arXiv 2408.06266), equation 7.
//!
//! With u and v the rewards β·(log π_θ − log π_ref) of chosen and rejected:
//!
//! `L = (1 − σ(u)) + σ(v)`, `∂L/∂u = −σ(u)·σ(−u)`, `∂L/∂v = σ(v)·σ(−v)`
//!
//! The loss raises the chosen completion and lowers the rejected one. It is meant for chosen answers that are better
//! than the model's own. A soft label y gives y·L(u, v) + (1−y)·L(v, u).

use serde::{Deserialize, Serialize};

use super::numbers::{sigmoid, sigmoid_slope};
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Terms, Weighed};
use crate::error::{Problems, Result};

/// Raises the chosen completion and lowers the rejected one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApoZero {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
}

impl Default for ApoZero {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Terms for ApoZero {
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

impl ApoZero {
    fn pair(&self, pair: &Pair) -> PairLoss {
        let beta = self.beta;
        pairs::of_ratios(pair, |a, b| {
            let (u, v) = (beta * a, beta * b);
            [sigmoid(-u) + sigmoid(v), -beta * sigmoid_slope(u), beta * sigmoid_slope(v)]
        })
    }
}
