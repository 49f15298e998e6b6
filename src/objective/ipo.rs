//! Identity preference optimization: Azar et al. 2023 (arXiv 2310.12036), equation 17.
//!
//! With h = s_chosen/n_c − s_rejected/n_r, s the score of a completion (`divergence.rs`; log π_θ − log π_ref by
//! default) and n its number of scored tokens:
//!
//! `L = (h − 1/(2β))²`, `∂L/∂h = 2·(h − 1/(2β))`
//!
//! β is the paper's τ. The division by the number of tokens follows TRL, whose authors confirmed it with the paper's
//! authors; the equation itself does not contain it. A soft label y gives the weighted mean of the loss of both orders:
//! y·L(h) + (1−y)·L(−h).

use serde::{Deserialize, Serialize};

use super::divergence::{Divergence, FDivergenceType};
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Terms, Weighed};
use crate::error::{Problems, Result};

/// Squared distance between the difference of the log-ratios and its optimum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ipo {
    /// τ: strength of the regularization towards the reference, above 0.
    pub beta: f64,
    /// The divergence that regularizes the policy towards the reference.
    pub f_divergence_type: FDivergenceType,
    /// α of `alpha_divergence`.
    pub f_alpha_divergence_coef: f64,
}

impl Default for Ipo {
    fn default() -> Self {
        Self {
            beta: 0.1,
            f_divergence_type: FDivergenceType::ReverseKl,
            f_alpha_divergence_coef: Divergence::ALPHA,
        }
    }
}

impl Terms for Ipo {
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

impl Ipo {
    fn divergence(&self) -> Divergence {
        Divergence { kind: self.f_divergence_type, alpha: self.f_alpha_divergence_coef }
    }

    fn pair(&self, pair: &Pair) -> PairLoss {
        let optimum = 1.0 / (2.0 * self.beta);
        pairs::of_mean_margin(pair, self.divergence(), |h| ((h - optimum).powi(2), 2.0 * (h - optimum)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{logps, pair_of};
    use super::*;

    #[test]
    fn the_optimum_is_a_difference_of_half_the_inverse_of_beta() {
        let loss = Ipo { beta: 0.1, ..Ipo::default() };
        // 4 and 3 tokens: h = 20/4 − 0/3 = 5 = 1/(2·0.1)
        let found = pair_of(&loss, &logps([-80.0, -30.0, -100.0, -30.0]));
        assert_eq!((found.loss, found.d_chosen, found.d_rejected), (0.0, 0.0, -0.0));
        let start = pair_of(&loss, &logps([-80.0, -30.0, -80.0, -30.0]));
        assert_eq!((start.loss, start.d_chosen), (25.0, -2.5));
    }
}
