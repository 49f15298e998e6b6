//! Mathematical functions of the losses, accurate where the obvious formulas overflow or cancel.

/// Computes log(1 + eˣ) = −log σ(−x) without overflow.
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Computes 1 / (1 + e⁻ˣ) without overflow and without losing small values.
pub(super) fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

/// Computes σ'(x) = σ(x)·σ(−x).
pub(super) fn sigmoid_slope(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// Computes `weight · term`, where a weight of 0 drops the term, so that 0 · ∞ does not occur.
pub(super) fn weighted(weight: f64, term: f64) -> f64 {
    if weight == 0.0 { 0.0 } else { weight * term }
}

/// Larger exponents are capped, as TRL does for its α-divergence: e⁸⁰ is still finite in f32.
const LARGEST_EXPONENT: f64 = 80.0;

/// Computes (e^(λx) − 1)/λ and its slope e^(λx). For λ = 0 these are the limits x and 1.
///
/// For λx above 80 the value stays constant and the slope is 0.
pub(super) fn power(x: f64, lambda: f64) -> (f64, f64) {
    if lambda == 0.0 {
        return (x, 1.0);
    }
    let exponent = lambda * x;
    let value = exponent.min(LARGEST_EXPONENT).exp_m1() / lambda;
    (value, if exponent > LARGEST_EXPONENT { 0.0 } else { exponent.exp() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_have_the_identity_as_their_limit() {
        let (value, slope) = power(-3.0, 1e-9);
        assert!((value + 3.0).abs() < 1e-7 && (slope - 1.0).abs() < 1e-7);
        assert_eq!(power(-3.0, 0.0), (-3.0, 1.0));
        // λ = −1: 1 − e⁻ˣ
        assert!((power(0.5, -1.0).0 - (1.0 - (-0.5f64).exp())).abs() < 1e-15);
        let (value, slope) = power(-1e4, -1.0);
        assert!((value + 80f64.exp()).abs() < 1.0e20 && slope == 0.0, "{value} {slope}");
    }
}
