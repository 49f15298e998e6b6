//! Discovered preference optimization: Lu et al. 2024 (arXiv 2406.08414), equation 5 (log-ratio modulated loss).
//!
//! With x = β·(s_chosen − s_rejected), s the score of a completion (`divergence.rs`), and m = σ(x/τ):
//!
//! `L = (1−m)·(−log σ(x)) + m·e⁻ˣ`, `∂L/∂x = −(1−m)·σ(−x) − m·e⁻ˣ + (m·e⁻ˣ − m·(−log σ(x)))·(1−m)/τ`
//!
//! At x = 0, where a run begins, the gradient is (1 − ln 2)/(4τ) − 3/4. Below τ = (1 − ln 2)/3 ≈ 0.102 it is positive, and the
//! margin first falls, to a minimum of the loss at a negative x. TRL's default of 0.05 is the paper's.
//!
//! m·e⁻ˣ is computed as a single exponential: TRL's product is 0·∞ at x = −1e4. It is bounded for τ up to 1, and a
//! larger τ is rejected. A soft label y gives y·L(x) + (1−y)·L(−x).

use serde::{Deserialize, Serialize};

use super::divergence::{Divergence, FDivergenceType};
use super::numbers::{sigmoid, softplus};
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Terms, Weighed};
use crate::error::{Problems, Result};

/// A blend of the logistic and the exponential loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Discopop {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
    /// τ: the temperature of the blend around margin 0, in (0, 1].
    pub discopop_tau: f64,
    /// The divergence that regularizes the policy towards the reference.
    pub f_divergence_type: FDivergenceType,
    /// α of `alpha_divergence`.
    pub f_alpha_divergence_coef: f64,
}

impl Default for Discopop {
    fn default() -> Self {
        Self {
            beta: 0.1,
            discopop_tau: 0.05,
            f_divergence_type: FDivergenceType::ReverseKl,
            f_alpha_divergence_coef: Divergence::ALPHA,
        }
    }
}

impl Terms for Discopop {
    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
        problems.require(self.discopop_tau > 0.0 && self.discopop_tau <= 1.0, || {
            format!("objective.discopop_tau is {}; it must be in (0, 1], such as 0.05", self.discopop_tau)
        });
        self.divergence().check(problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        pairs::add_pairs(batch, weight, onto, |pair| self.pair(pair))
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        completion.log_ratio().map(|ratio| self.beta * ratio)
    }
}

impl Discopop {
    fn divergence(&self) -> Divergence {
        Divergence { kind: self.f_divergence_type, alpha: self.f_alpha_divergence_coef }
    }

    fn pair(&self, pair: &Pair) -> PairLoss {
        let tau = self.discopop_tau;
        pairs::of_margin(pair, self.divergence(), |delta| {
            let x = self.beta * delta;
            let (m, rest) = (sigmoid(x / tau), sigmoid(-x / tau));
            let (logistic, exponential) = (softplus(-x), (-x - softplus(-x / tau)).exp());
            let slope = -rest * sigmoid(-x) - exponential + (exponential - m * logistic) * rest / tau;
            (rest * logistic + exponential, self.beta * slope)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{logps, pair_of};
    use super::*;

    #[test]
    fn equal_policies_give_the_mean_of_both_losses() {
        let found = pair_of(&Discopop::default(), &logps([-3.0, -4.0, -3.0, -4.0]));
        assert!((found.loss - (0.5 * std::f64::consts::LN_2 + 0.5)).abs() < 1e-15);
    }
}
