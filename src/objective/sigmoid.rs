//! The DPO loss: Rafailov et al. 2023 (arXiv 2305.18290), equation 7, with a soft target.
//!
//! With s_i = β·(log π_θ(x_i) − log π_ref(x_i)), Δ = s_chosen − s_rejected and target t = y·(1−ε) + (1−y)·ε:
//!
//! `L = −t·log σ(Δ) − (1−t)·log σ(−Δ)`, `∂L/∂Δ = −t·σ(−Δ) + (1−t)·σ(Δ)`
//!
//! t = 1 is equation 7; t = 1 − ε is conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences"). TRL 1.16
//! accepts `label_smoothing` for this loss and ignores it; here it has the meaning of the paper.
//! The gradient is not written σ(Δ) − t: that cancels to 0 for t = 1 and Δ above 37, where σ(−Δ) is still exact.

use serde::{Deserialize, Serialize};

use super::numbers::{sigmoid, softplus, weighted};
use super::scored::{Pair, Scored};
use super::terms::{self, PairLoss, Terms, Weighed};
use crate::error::{Problems, Result};

/// Binary cross-entropy over policies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sigmoid {
    /// Strength of the pull towards the reference, above 0. Rewards are multiples of it.
    pub beta: f64,
    /// ε: the assumed share of flipped labels (cDPO), in [0, 0.5).
    pub label_smoothing: f64,
}

impl Default for Sigmoid {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.0 }
    }
}

impl Terms for Sigmoid {
    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
        terms::check_smoothing(self.label_smoothing, problems);
    }

    fn add(&self, batch: &[Scored], weight: f64, onto: &mut Weighed) -> Result<()> {
        terms::add_pairs(batch, weight, onto, |pair| self.pair(pair))
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        completion.log_ratio().map(|ratio| self.beta * ratio)
    }
}

impl Sigmoid {
    fn pair(&self, pair: &Pair) -> PairLoss {
        let (chosen, rejected) = pair.log_ratios();
        let delta = self.beta * chosen - self.beta * rejected;
        let target = self.target(pair.label());
        // −log σ(Δ) = softplus(−Δ)
        let loss = weighted(target, softplus(-delta)) + weighted(1.0 - target, softplus(delta));
        let slope = (1.0 - target) * sigmoid(delta) - target * sigmoid(-delta);
        PairLoss { loss, d_chosen: self.beta * slope, d_rejected: -self.beta * slope }
    }

    /// The target of the cross-entropy, y·(1−ε) + (1−y)·ε.
    fn target(&self, label: f64) -> f64 {
        label * (1.0 - self.label_smoothing) + (1.0 - label) * self.label_smoothing
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradient, logps, pair_of};
    use super::*;

    fn loss(beta: f64, label_smoothing: f64) -> Sigmoid {
        Sigmoid { beta, label_smoothing }
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
    fn gradient_agrees_with_finite_differences() {
        for smoothing in [0.0, 0.1, 0.4] {
            for beta in [0.05, 0.5, 2.0] {
                assert_gradient(&loss(beta, smoothing));
            }
        }
    }

    #[test]
    fn smoothing_moves_the_target() {
        // y = 0.75: 0.75 · 0.9 + 0.25 · 0.1 = 0.7
        assert!((loss(0.1, 0.1).target(0.75) - 0.7).abs() < 1e-15);
        assert!((loss(0.1, 0.1).target(0.0) - 0.1).abs() < 1e-15);
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
