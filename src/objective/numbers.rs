//! Functions of the losses, exact where the obvious formulas overflow or cancel.

/// log(1 + eˣ) without overflow; −log σ(−x).
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1 / (1 + e⁻ˣ) without overflow and without losing small values.
pub(super) fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

/// `weight · term`, where a weight of 0 drops the term: 0 · ∞ does not arise.
pub(super) fn weighted(weight: f64, term: f64) -> f64 {
    if weight == 0.0 { 0.0 } else { weight * term }
}
