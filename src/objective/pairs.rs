//! Code shared by the losses of pairs: margins, soft labels, cross-entropy.

use super::divergence::Divergence;
use super::numbers::{sigmoid, softplus, weighted};
use super::scored::{Pair, pair};
use super::terms::{Batch, Weighed, is_estimate};
use crate::error::Result;

/// The loss of one pair and its gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PairLoss {
    /// The loss, in nats.
    pub loss: f64,
    /// ∂loss / ∂ log π_θ(chosen).
    pub d_chosen: f64,
    /// ∂loss / ∂ log π_θ(rejected).
    pub d_rejected: f64,
}

/// Adds a loss that is a function of a single pair.
pub(super) fn add_pairs(
    batch: &Batch,
    weight: f64,
    onto: &mut Weighed,
    loss: impl Fn(&Pair) -> PairLoss,
) -> Result<()> {
    for (i, (first, group)) in batch.groups().enumerate().filter(|(_, (_, group))| !is_estimate(group)) {
        let found = loss(&pair(group)?);
        onto.losses[i] += weight * found.loss;
        onto.d_logps[first] += weight * found.d_chosen;
        onto.d_logps[first + 1] += weight * found.d_rejected;
    }
    Ok(())
}

/// Computes a loss L(δ) of the difference δ between the scores of chosen and rejected, with a label y: y·L(δ) +
/// (1−y)·L(−δ). `loss` returns L and dL/dδ.
pub(super) fn of_margin(pair: &Pair, divergence: Divergence, loss: impl Fn(f64) -> (f64, f64)) -> PairLoss {
    of_scaled_margin(pair, divergence, [1.0, 1.0], loss)
}

/// Same as [`of_margin`], with scores per token.
pub(super) fn of_mean_margin(
    pair: &Pair,
    divergence: Divergence,
    loss: impl Fn(f64) -> (f64, f64),
) -> PairLoss {
    let over = |tokens: usize| 1.0 / tokens.max(1) as f64;
    of_scaled_margin(pair, divergence, [over(pair.chosen.tokens), over(pair.rejected.tokens)], loss)
}

fn of_scaled_margin(
    pair: &Pair,
    divergence: Divergence,
    scales: [f64; 2],
    loss: impl Fn(f64) -> (f64, f64),
) -> PairLoss {
    let (chosen, rejected) = pair.log_ratios();
    let ((chosen, d_chosen), (rejected, d_rejected)) = (divergence.score(chosen), divergence.score(rejected));
    let (found, slope) = with_label(pair.label(), chosen * scales[0] - rejected * scales[1], loss);
    // A slope of 0 stays 0: the slope of a score may reach e⁸⁰ but is never infinite.
    PairLoss {
        loss: found,
        d_chosen: slope * d_chosen * scales[0],
        d_rejected: -slope * d_rejected * scales[1],
    }
}

/// Returns y·L(δ) + (1−y)·L(−δ) and its slope.
pub(super) fn with_label(label: f64, delta: f64, loss: impl Fn(f64) -> (f64, f64)) -> (f64, f64) {
    let ((kept, kept_slope), (flipped, flipped_slope)) = (loss(delta), loss(-delta));
    (
        weighted(label, kept) + weighted(1.0 - label, flipped),
        weighted(label, kept_slope) - weighted(1.0 - label, flipped_slope),
    )
}

/// Computes a loss L(a, b) of the log-ratios of chosen and rejected, with a label y: y·L(a, b) + (1−y)·L(b, a). `loss`
/// returns L, ∂L/∂a and ∂L/∂b.
pub(super) fn of_ratios(pair: &Pair, loss: impl Fn(f64, f64) -> [f64; 3]) -> PairLoss {
    let (a, b) = pair.log_ratios();
    let (kept, flipped) = (pair.label(), 1.0 - pair.label());
    let ([kept_loss, kept_a, kept_b], [flipped_loss, flipped_b, flipped_a]) = (loss(a, b), loss(b, a));
    PairLoss {
        loss: weighted(kept, kept_loss) + weighted(flipped, flipped_loss),
        d_chosen: weighted(kept, kept_a) + weighted(flipped, flipped_a),
        d_rejected: weighted(kept, kept_b) + weighted(flipped, flipped_b),
    }
}

/// Returns −t·log σ(x) − (1−t)·log σ(−x) and its slope −t·σ(−x) + (1−t)·σ(x).
///
/// The slope is not computed as σ(x) − t, which cancels to 0 for t = 1 and x above 37, where σ(−x) is still accurate.
pub(super) fn cross_entropy(x: f64, target: f64) -> (f64, f64) {
    // −log σ(x) = softplus(−x)
    let loss = weighted(target, softplus(-x)) + weighted(1.0 - target, softplus(x));
    (loss, (1.0 - target) * sigmoid(x) - target * sigmoid(-x))
}

/// Returns the target of a label y with smoothing ε: y·(1−ε) + (1−y)·ε.
pub(super) fn smoothed(label: f64, epsilon: f64) -> f64 {
    label * (1.0 - epsilon) + (1.0 - label) * epsilon
}
