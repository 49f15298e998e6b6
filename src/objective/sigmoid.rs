//! The DPO loss: Rafailov et al. 2023 (arXiv 2305.18290), equation 7, with a soft target.
//!
//! With s the score of a completion (`divergence.rs`; log π_θ − log π_ref by default), Δ = β·(s_chosen − s_rejected)
//! and target t = y·(1−ε) + (1−y)·ε:
//!
//! `L = −t·log σ(Δ) − (1−t)·log σ(−Δ)`, `∂L/∂Δ = −t·σ(−Δ) + (1−t)·σ(Δ)`
//!
//! t = 1 is equation 7; t = 1 − ε is conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences"). TRL 1.16
//! accepts `label_smoothing` for this loss but ignores it; here it has the meaning given in the paper.

use serde::{Deserialize, Serialize};

use super::divergence::{Divergence, FDivergenceType};
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Terms, Weighed};
use crate::error::{Problems, Result};

/// Binary cross-entropy over policies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sigmoid {
    /// Strength of the regularization towards the reference, above 0. Rewards are multiples of it.
    pub beta: f64,
    /// ε: the assumed share of flipped labels (cDPO), in [0, 0.5).
    pub label_smoothing: f64,
    /// The divergence that regularizes the policy towards the reference.
    pub f_divergence_type: FDivergenceType,
    /// α of `alpha_divergence`.
    pub f_alpha_divergence_coef: f64,
}

impl Default for Sigmoid {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 0.0,
            f_divergence_type: FDivergenceType::ReverseKl,
            f_alpha_divergence_coef: Divergence::ALPHA,
        }
    }
}

impl Terms for Sigmoid {
    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
        terms::check_smoothing(self.label_smoothing, problems);
        self.divergence().check(problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        pairs::add_pairs(batch, weight, onto, |pair| self.pair(pair))
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        completion.log_ratio().map(|ratio| self.beta * ratio)
    }
}

impl Sigmoid {
    fn divergence(&self) -> Divergence {
        Divergence { kind: self.f_divergence_type, alpha: self.f_alpha_divergence_coef }
    }

    fn pair(&self, pair: &Pair) -> PairLoss {
        pairs::of_margin(pair, self.divergence(), |delta| {
            let (loss, slope) = pairs::cross_entropy(self.beta * delta, 1.0 - self.label_smoothing);
            (loss, self.beta * slope)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{logps, pair_of};
    use super::*;

    fn loss(beta: f64, label_smoothing: f64) -> Sigmoid {
        Sigmoid { beta, label_smoothing, ..Sigmoid::default() }
    }

    #[test]
    fn equal_policies_give_log_two() {
        let found = pair_of(&loss(0.1, 0.0), &logps([-12.3, -45.6, -12.3, -45.6]));
        assert_eq!(found.loss, std::f64::consts::LN_2);
        assert_eq!((found.d_chosen, found.d_rejected), (-0.05, 0.05));
    }

    #[test]
    fn agrees_with_the_formula_by_hand() {
        // s = 0.2 · 2.5 = 0.5 and 0.2 · (−1.25) = −0.25, Δ = 0.75
        let found = pair_of(&loss(0.2, 0.0), &logps([-41.5, -37.25, -44.0, -36.0]));
        assert!((found.loss - (1.0 + (-0.75f64).exp()).ln()).abs() < 1e-15);
    }

    #[test]
    fn a_label_and_smoothing_move_the_target() {
        // y = 0.75: t = 0.75 · 0.9 + 0.25 · 0.1 = 0.7; at Δ = 0 the slope is ½ − t.
        let batch = logps([0.0; 4]).map(|completion| Scored { label: 0.75, ..completion });
        assert!((pair_of(&loss(1.0, 0.1), &batch).d_chosen + 0.2).abs() < 1e-15);
    }

    #[test]
    fn huge_margins_stay_finite() {
        let won = pair_of(&loss(1.0, 0.0), &logps([1e4, 0.0, 0.0, 0.0]));
        let lost = pair_of(&loss(1.0, 0.0), &logps([-1e4, 0.0, 0.0, 0.0]));
        assert_eq!((won.loss, lost.loss, lost.d_chosen), (0.0, 1e4, -1.0));
        let smoothed = pair_of(&loss(1.0, 0.1), &logps([1e4, 0.0, 0.0, 0.0]));
        assert!((smoothed.loss - 1e3).abs() < 1e-9);
        // Δ = 40: σ(40) − 1 would be 0 in f64.
        let far = pair_of(&loss(1.0, 0.0), &logps([40.0, 0.0, 0.0, 0.0]));
        assert!((far.d_chosen / -(-40f64).exp() - 1.0).abs() < 1e-12);
    }
}
