//! The DPO loss: Rafailov et al. 2023 (arXiv 2305.18290), equation 7, with a soft target.
//!
//! With s_i = β·(log π_θ(x_i) − log π_ref(x_i)), Δ = s_chosen − s_rejected and target t:
//!
//! `L = −t·log σ(Δ) − (1−t)·log σ(−Δ)`, `∂L/∂Δ = −t·σ(−Δ) + (1−t)·σ(Δ)`
//!
//! t = 1 is equation 7; t = 1 − ε is conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences").
//! The gradient is not written σ(Δ) − t: that cancels to 0 for t = 1 and Δ above 37, where σ(−Δ) is still exact.

use super::{PairLogps, PairLoss};

/// Loss, gradient and rewards of one pair for a target in [0, 1].
pub(super) fn pair(logps: &PairLogps, target: f64, beta: f64) -> PairLoss {
    let reward_chosen = beta * (logps.chosen - logps.ref_chosen);
    let reward_rejected = beta * (logps.rejected - logps.ref_rejected);
    let delta = reward_chosen - reward_rejected;
    // −log σ(Δ) = softplus(−Δ). A weight of 0 drops its term, so that 0 · ∞ never arises.
    let loss = weighted(target, softplus(-delta)) + weighted(1.0 - target, softplus(delta));
    let slope = (1.0 - target) * sigmoid(delta) - target * sigmoid(-delta);
    PairLoss { loss, d_chosen: beta * slope, d_rejected: -beta * slope, reward_chosen, reward_rejected }
}

fn weighted(weight: f64, term: f64) -> f64 {
    if weight == 0.0 { 0.0 } else { weight * term }
}

/// log(1 + eˣ) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1 / (1 + e⁻ˣ) without overflow and without losing small values.
fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: PairLogps =
        PairLogps { chosen: -41.5, rejected: -37.25, ref_chosen: -44.0, ref_rejected: -36.0 };

    #[test]
    fn equal_policies_give_log_two_and_zero_rewards() {
        let logps = PairLogps { chosen: -12.3, rejected: -45.6, ref_chosen: -12.3, ref_rejected: -45.6 };
        let loss = pair(&logps, 1.0, 0.1);
        assert_eq!(loss.loss, std::f64::consts::LN_2);
        assert_eq!((loss.reward_chosen, loss.reward_rejected), (0.0, 0.0));
        assert_eq!((loss.d_chosen, loss.d_rejected), (-0.05, 0.05));
    }

    #[test]
    fn agrees_with_the_formula_by_hand() {
        // s = 0.2 · 2.5 = 0.5 and 0.2 · (−1.25) = −0.25, Δ = 0.75; log(1 + e^−0.75) = 0.386871...
        let loss = pair(&PAIR, 1.0, 0.2);
        assert!((loss.margin() - 0.75).abs() < 1e-12);
        assert!((loss.loss - (1.0 + (-0.75f64).exp()).ln()).abs() < 1e-15);
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let h = 1e-4;
        for target in [1.0, 0.9, 0.5, 0.3, 0.0] {
            for beta in [0.05, 0.5, 2.0] {
                let at = |chosen: f64, rejected: f64| {
                    pair(&PairLogps { chosen, rejected, ..PAIR }, target, beta).loss
                };
                let (c, r) = (PAIR.chosen, PAIR.rejected);
                let d_chosen = (at(c + h, r) - at(c - h, r)) / (2.0 * h);
                let d_rejected = (at(c, r + h) - at(c, r - h)) / (2.0 * h);
                let got = pair(&PAIR, target, beta);
                assert!((got.d_chosen - d_chosen).abs() < 1e-7, "{target} {beta}: {got:?} {d_chosen}");
                assert!((got.d_rejected - d_rejected).abs() < 1e-7, "{target} {beta}: {got:?} {d_rejected}");
            }
        }
    }

    #[test]
    fn huge_margins_stay_finite() {
        let won = PairLogps { chosen: 1e4, rejected: 0.0, ref_chosen: 0.0, ref_rejected: 0.0 };
        let lost = PairLogps { chosen: -1e4, ..won };
        assert_eq!(pair(&won, 1.0, 1.0).loss, 0.0);
        assert_eq!(pair(&lost, 1.0, 1.0).loss, 1e4);
        assert_eq!(pair(&lost, 1.0, 1.0).d_chosen, -1.0);
        assert!((pair(&won, 0.9, 1.0).loss - 1e3).abs() < 1e-9);
        // Δ = 40: σ(40) − 1 would be 0 in f64.
        let far = PairLogps { chosen: 40.0, ..won };
        assert!((pair(&far, 1.0, 1.0).d_chosen / -(-40f64).exp() - 1.0).abs() < 1e-12);
    }
}
