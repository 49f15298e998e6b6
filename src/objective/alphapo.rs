//! AlphaPO: Gupta et al. 2025 (arXiv 2501.03884).
//!
//! SimPO with the reward r = (1 − p^(−α))/α of the mean log-prob per token log p. For α → 0 this is log p, which is
//! SimPO itself. With x = β·(r_chosen − r_rejected) − γ:
//!
//! `L = −(1−ε)·log σ(x) − ε·log σ(−x)`, `∂L/∂x = −(1−ε)·σ(−x) + ε·σ(x)`, `∂r/∂ log p = p^(−α)`
//!
//! This is TRL's `loss_type: alphapo`, which means `simpo` with `cpo_alpha: 0`. Its `alpha` defaults to 0, which is
//! SimPO. Exponents are capped at 80, where TRL overflows. Soft labels are treated as in `simpo`.

use serde::{Deserialize, Serialize};

use super::scored::Scored;
use super::simpo::Simpo;
use super::terms::{Batch, Needs, Terms, Weighed};
use crate::error::{Problems, Result};

/// SimPO with a shaped reward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alphapo {
    /// Scale of the rewards, above 0.
    pub beta: f64,
    /// ε: the assumed share of flipped labels, in [0, 0.5).
    pub label_smoothing: f64,
    /// γ: the target margin, in the units of the rewards.
    pub simpo_gamma: f64,
    /// Weight of CPO's negative log-likelihood term.
    pub cpo_alpha: f64,
    /// α: the shape parameter of the rewards; 0 is SimPO.
    pub alpha: f64,
}

impl Default for Alphapo {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.0, simpo_gamma: 0.5, cpo_alpha: 0.0, alpha: 0.0 }
    }
}

impl Terms for Alphapo {
    fn needs(&self) -> Needs {
        self.simpo().needs()
    }

    fn check(&self, problems: &mut Problems) {
        self.simpo().check(problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        self.simpo().add(batch, weight, onto)
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        self.simpo().reward(completion)
    }

    fn logp(&self, completion: &Scored) -> f64 {
        self.simpo().logp(completion)
    }
}

impl Alphapo {
    /// The same loss under its other name; only the defaults differ.
    fn simpo(&self) -> Simpo {
        let Self { beta, label_smoothing, simpo_gamma, cpo_alpha, alpha } = *self;
        Simpo { beta, label_smoothing, simpo_gamma, cpo_alpha, alpha }
    }
}
