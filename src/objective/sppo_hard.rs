//! Self-play preference optimization: Wu et al. 2024 (arXiv 2405.00675), equation 4.7 with hard labels.
//!
//! With a and b the log-ratios log π_θ − log π_ref of chosen and rejected:
//!
//! `L = (a − 1/(2β))² + (b + 1/(2β))²`, `∂L/∂a = 2·(a − 1/(2β))`, `∂L/∂b = 2·(b + 1/(2β))`
//!
//! A soft label y gives y·L(a, b) + (1−y)·L(b, a). Its gradient is that of the paper's loss with probability y that the
//! chosen completion wins: the optimum of a becomes (y − ½)/β.

use serde::{Deserialize, Serialize};

use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Terms, Weighed};
use crate::error::{Problems, Result};

/// Squared distance of each log-ratio from its optimum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SppoHard {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
}

impl Default for SppoHard {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Terms for SppoHard {
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

impl SppoHard {
    fn pair(&self, pair: &Pair) -> PairLoss {
        let optimum = 0.5 / self.beta;
        pairs::of_ratios(pair, |a, b| {
            let (won, lost) = (a - optimum, b + optimum);
            [won * won + lost * lost, 2.0 * won, 2.0 * lost]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{logps, pair_of};
    use super::*;

    #[test]
    fn a_soft_label_is_the_papers_probability() {
        let label = 0.75;
        let batch = logps([-40.0, -37.0, -44.0, -36.0]).map(|completion| Scored { label, ..completion });
        // a = 4, b = −1, β = 0.5: 2·(4 − 0.25/0.5) and 2·(−1 + 0.25/0.5)
        let found = pair_of(&SppoHard { beta: 0.5 }, &batch);
        assert!((found.d_chosen - 7.0).abs() < 1e-12 && (found.d_rejected + 1.0).abs() < 1e-12, "{found:?}");
    }
}
