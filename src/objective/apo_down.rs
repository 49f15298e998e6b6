//! Anchored preference optimization, down: D'Oosterlinck et al. 2024 (arXiv 2408.06266), equation 8.
//!
//! With u and v the rewards β·(log π_θ − log π_ref) of chosen and rejected:
//!
//! `L = σ(u) + (1 − σ(u − v))`, `∂L/∂u = σ'(u) − σ'(u − v)`, `∂L/∂v = σ'(u − v)`, `σ'(x) = σ(x)·σ(−x)`
//!
//! The loss lowers both completions, the rejected one more. It is meant for chosen answers that are worse than the
//! model's own. A soft label y gives y·L(u, v) + (1−y)·L(v, u).

use serde::{Deserialize, Serialize};

use super::numbers::{sigmoid, sigmoid_slope};
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Terms, Weighed};
use crate::error::{Problems, Result};

/// Lowers both completions, the rejected one more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApoDown {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
}

impl Default for ApoDown {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Terms for ApoDown {
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

impl ApoDown {
    fn pair(&self, pair: &Pair) -> PairLoss {
        let beta = self.beta;
        pairs::of_ratios(pair, |a, b| {
            let (u, margin) = (beta * a, beta * (a - b));
            let slope = sigmoid_slope(margin);
            [sigmoid(u) + sigmoid(-margin), beta * (sigmoid_slope(u) - slope), beta * slope]
        })
    }
}
