//! Identity preference optimization: Azar et al. 2023 (arXiv 2310.12036), equation 17.
//!
//! With h = (log π_θ − log π_ref)(chosen)/n_c − (log π_θ − log π_ref)(rejected)/n_r, n the scored tokens of a completion:
//!
//! `L = (h − 1/(2β))²`, `∂L/∂h = 2·(h − 1/(2β))`
//!
//! β is the paper's τ. The division by the number of tokens is TRL's, whose authors confirmed it with the paper's; the
//! equation itself does not say it. A soft label y takes the mean of the loss of both orders: y·L(h) + (1−y)·L(−h).

use serde::{Deserialize, Serialize};

use super::numbers::weighted;
use super::scored::{Pair, Scored};
use super::terms::{self, PairLoss, Terms, Weighed};
use crate::error::{Problems, Result};

/// Squared distance of the log-ratios' difference from its optimum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ipo {
    /// τ: strength of the pull towards the reference, above 0.
    pub beta: f64,
}

impl Default for Ipo {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Terms for Ipo {
    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
    }

    fn add(&self, batch: &[Scored], weight: f64, onto: &mut Weighed) -> Result<()> {
        terms::add_pairs(batch, weight, onto, |pair| self.pair(pair))
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        completion.log_ratio().map(|ratio| self.beta * ratio)
    }
}

impl Ipo {
    fn pair(&self, pair: &Pair) -> PairLoss {
        let (chosen, rejected) = pair.log_ratios();
        let tokens = |completion: &Scored| completion.tokens.max(1) as f64;
        let (n_c, n_r) = (tokens(pair.chosen), tokens(pair.rejected));
        let h = chosen / n_c - rejected / n_r;
        let optimum = 1.0 / (2.0 * self.beta);
        let (preferred, flipped) = (pair.label(), 1.0 - pair.label());
        let loss = weighted(preferred, (h - optimum).powi(2)) + weighted(flipped, (h + optimum).powi(2));
        let slope = weighted(preferred, 2.0 * (h - optimum)) + weighted(flipped, 2.0 * (h + optimum));
        PairLoss { loss, d_chosen: slope / n_c, d_rejected: -slope / n_r }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradient, logps, pair_of};
    use super::*;

    #[test]
    fn the_optimum_is_a_difference_of_half_the_inverse_of_beta() {
        // 4 and 3 tokens: h = 20/4 − 0/3 = 5 = 1/(2·0.1)
        let found = pair_of(&Ipo { beta: 0.1 }, &logps([-80.0, -30.0, -100.0, -30.0]));
        assert_eq!((found.loss, found.d_chosen, found.d_rejected), (0.0, 0.0, -0.0));
        let start = pair_of(&Ipo { beta: 0.1 }, &logps([-80.0, -30.0, -80.0, -30.0]));
        assert_eq!((start.loss, start.d_chosen), (25.0, -2.5));
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        [0.01, 0.1, 1.0].into_iter().for_each(|beta| assert_gradient(&Ipo { beta }));
    }
}
