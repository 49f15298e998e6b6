//! Anchored preference optimization, zero, for single completions: D'Oosterlinck et al. 2024 (arXiv 2408.06266), the
//! two terms of equation 7 separately.
//!
//! With u = β·(log π_θ − log π_ref):
//!
//! `L = λ_D·(1 − σ(u))` if desirable, `L = λ_U·σ(u)` if not; `∂L/∂u = ∓λ·σ(u)·σ(−u)`
//!
//! This is KTO with the divergence set to 0, so no mismatched completions are scored and batches may be split.

use serde::{Deserialize, Serialize};

use super::judged;
use super::numbers::{sigmoid, sigmoid_slope};
use super::scored::Scored;
use super::terms::{self, Batch, Needs, Records, Terms, Weighed};
use crate::error::{Problems, Result};

/// Raises desirable completions and lowers undesirable ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApoZeroUnpaired {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
    /// λ_D: weight of desirable completions.
    pub desirable_weight: f64,
    /// λ_U: weight of undesirable completions.
    pub undesirable_weight: f64,
}

impl Default for ApoZeroUnpaired {
    fn default() -> Self {
        Self { beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0 }
    }
}

impl Terms for ApoZeroUnpaired {
    fn needs(&self) -> Needs {
        Needs { records: Records::Judged, ..Needs::PAIRS }
    }

    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
        terms::check_weight("desirable_weight", self.desirable_weight, problems);
        terms::check_weight("undesirable_weight", self.undesirable_weight, problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        judged::add(batch, weight, onto, |ratio, desirable| {
            let u = self.beta * ratio;
            match desirable {
                true => (
                    self.desirable_weight * sigmoid(-u),
                    -self.desirable_weight * self.beta * sigmoid_slope(u),
                ),
                false => (
                    self.undesirable_weight * sigmoid(u),
                    self.undesirable_weight * self.beta * sigmoid_slope(u),
                ),
            }
        })
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        completion.log_ratio().map(|ratio| self.beta * ratio)
    }
}
