//! The hinge loss: SLiC, Zhao et al. 2023 (arXiv 2305.10425), with the reference model of RSO, Liu et al. 2023 (arXiv
//! 2309.06657).
//!
//! With δ = s_chosen − s_rejected, s the score of a completion (`divergence.rs`; log π_θ − log π_ref by default):
//!
//! `L = max(0, 1 − βδ)`, `∂L/∂δ = −β` where βδ < 1, else 0
//!
//! At the kink the slope is 0, as in torch. A soft label y gives y·L(δ) + (1−y)·L(−δ).

use serde::{Deserialize, Serialize};

use super::divergence::{Divergence, FDivergenceType};
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Terms, Weighed};
use crate::error::{Problems, Result};

/// The larger of 0 and the amount by which the margin falls short of 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hinge {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
    /// The divergence that regularizes the policy towards the reference.
    pub f_divergence_type: FDivergenceType,
    /// α of `alpha_divergence`.
    pub f_alpha_divergence_coef: f64,
}

impl Default for Hinge {
    fn default() -> Self {
        Self {
            beta: 0.1,
            f_divergence_type: FDivergenceType::ReverseKl,
            f_alpha_divergence_coef: Divergence::ALPHA,
        }
    }
}

impl Terms for Hinge {
    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
        self.divergence().check(problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        pairs::add_pairs(batch, weight, onto, |pair| self.pair(pair))
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        completion.log_ratio().map(|ratio| self.beta * ratio)
    }
}

impl Hinge {
    fn divergence(&self) -> Divergence {
        Divergence { kind: self.f_divergence_type, alpha: self.f_alpha_divergence_coef }
    }

    fn pair(&self, pair: &Pair) -> PairLoss {
        pairs::of_margin(pair, self.divergence(), |delta| {
            let lacking = 1.0 - self.beta * delta;
            // This order of the comparison propagates NaN.
            if lacking <= 0.0 { (0.0, 0.0) } else { (lacking, -self.beta) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{logps, pair_of};
    use super::*;

    #[test]
    fn a_margin_of_one_is_enough() {
        let loss = Hinge { beta: 0.1, ..Hinge::default() };
        // β·(7.5 + 5) = 1.25, and 0.1·(2.5 − 1) = 0.15
        assert_eq!(pair_of(&loss, &logps([-2.5, -15.0, -10.0, -10.0])).loss, 0.0);
        let short = pair_of(&loss, &logps([-7.5, -9.0, -10.0, -10.0]));
        assert!((short.loss - 0.85).abs() < 1e-15);
        assert_eq!((short.d_chosen, short.d_rejected), (-0.1, 0.1));
    }
}
