//! Length-normalised DPO: Lambert et al. 2024, Tülu 3 (arXiv 2411.15124); also used by OLMo 3.
//!
//! With s the score of a completion (`divergence.rs`), n its number of scored tokens and Δ = β·(s_chosen/n_c −
//! s_rejected/n_r):
//!
//! `L = −log σ(Δ)`, `∂L/∂Δ = −σ(−Δ)`
//!
//! Scores per token are small, so β is larger than in DPO: Tülu 3 uses 5. Rewards are β·(log π_θ − log π_ref) of the
//! whole completion, as logged by TRL. A soft label y gives y·L(Δ) + (1−y)·L(−Δ).

use serde::{Deserialize, Serialize};

use super::divergence::{Divergence, FDivergenceType};
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Terms, Weighed};
use crate::error::{Problems, Result};

/// The DPO loss on log-ratios per token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SigmoidNorm {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
    /// The divergence that regularizes the policy towards the reference.
    pub f_divergence_type: FDivergenceType,
    /// α of `alpha_divergence`.
    pub f_alpha_divergence_coef: f64,
}

impl Default for SigmoidNorm {
    fn default() -> Self {
        Self {
            beta: 0.1,
            f_divergence_type: FDivergenceType::ReverseKl,
            f_alpha_divergence_coef: Divergence::ALPHA,
        }
    }
}

impl Terms for SigmoidNorm {
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

impl SigmoidNorm {
    fn divergence(&self) -> Divergence {
        Divergence { kind: self.f_divergence_type, alpha: self.f_alpha_divergence_coef }
    }

    fn pair(&self, pair: &Pair) -> PairLoss {
        pairs::of_mean_margin(pair, self.divergence(), |delta| {
            let (loss, slope) = pairs::cross_entropy(self.beta * delta, 1.0);
            (loss, self.beta * slope)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{logps, pair_of};
    use super::*;

    #[test]
    fn log_ratios_are_over_a_token() {
        // 4 and 3 tokens: Δ = 2·(6/4 − 1.5/3) = 2
        let found =
            pair_of(&SigmoidNorm { beta: 2.0, ..SigmoidNorm::default() }, &logps([-4.0, -8.5, -10.0, -10.0]));
        let expected = (-2f64).exp().ln_1p();
        assert!((found.loss - expected).abs() < 1e-15);
    }
}
