//! The divergence that regularizes the policy towards the reference: f-DPO, Wang et al. 2023 (arXiv 2309.16240),
//! table 1.
//!
//! DPO scores a completion by r = log π_θ − log π_ref. This is f'(u) of the reverse KL divergence at u = eʳ, up to a
//! constant that cancels. Another f gives another score s and slope ds/dr:
//!
//! | `f_divergence_type` | s(r) | ds/dr |
//! |---|---|---|
//! | `reverse_kl` | r | 1 |
//! | `forward_kl` | 1 − e⁻ʳ | e⁻ʳ |
//! | `js_divergence` | log 2 + log σ(r) | σ(−r) |
//! | `alpha_divergence` | (e^((α−1)r) − 1)/(α−1) | e^((α−1)r) |
//!
//! α is `f_alpha_divergence_coef`. Exponents are capped at 80. TRL does this for `alpha_divergence` but lets
//! `forward_kl` overflow; here both stay finite. Rewards are β·r for all of them, as in TRL.

use serde::{Deserialize, Serialize};

use super::numbers::{power, sigmoid, softplus};
use crate::error::Problems;

/// The values of TRL's `f_divergence_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FDivergenceType {
    /// Reverse KL, which is DPO itself.
    #[default]
    ReverseKl,
    /// Forward KL, which makes the policy cover everything the reference does.
    ForwardKl,
    /// Jensen–Shannon.
    JsDivergence,
    /// Interpolates between the two Kullback–Leibler divergences with `f_alpha_divergence_coef`.
    AlphaDivergence,
}

/// A divergence with its coefficient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Divergence {
    pub kind: FDivergenceType,
    /// α of the α-divergence.
    pub alpha: f64,
}

impl Divergence {
    /// TRL's default of `f_alpha_divergence_coef`.
    pub(super) const ALPHA: f64 = 0.5;

    /// Returns the score of a completion with this log-ratio, and the slope of the score.
    pub(super) fn score(self, ratio: f64) -> (f64, f64) {
        match self.kind {
            FDivergenceType::ReverseKl => (ratio, 1.0),
            FDivergenceType::ForwardKl => power(ratio, -1.0),
            FDivergenceType::JsDivergence => (std::f64::consts::LN_2 - softplus(-ratio), sigmoid(-ratio)),
            FDivergenceType::AlphaDivergence => power(ratio, self.alpha - 1.0),
        }
    }

    /// Rejects a coefficient that is not a finite number.
    pub(super) fn check(self, problems: &mut Problems) {
        problems.require(self.alpha.is_finite(), || {
            format!(
                "objective.f_alpha_divergence_coef is {}; it must be a finite number, such as 0.5",
                self.alpha
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_agree_with_finite_differences_and_scores_stay_finite() {
        use FDivergenceType::{AlphaDivergence, ForwardKl, JsDivergence, ReverseKl};
        for kind in [ReverseKl, ForwardKl, JsDivergence, AlphaDivergence] {
            for alpha in [0.5, 1.0, 2.0] {
                let divergence = Divergence { kind, alpha };
                for r in [-3.0, -0.1, 0.0, 2.5] {
                    let h = 1e-6;
                    let expected = (divergence.score(r + h).0 - divergence.score(r - h).0) / (2.0 * h);
                    let (_, slope) = divergence.score(r);
                    assert!((slope - expected).abs() < 1e-6 * expected.abs().max(1.0), "{kind:?} {r}");
                }
                for r in [-1e4, 1e4] {
                    let (score, slope) = divergence.score(r);
                    assert!(score.is_finite() && slope.is_finite(), "{kind:?} {r}");
                }
            }
        }
    }
}
