//! How far the merged model's logits may be from those of base and adapters.
//!
//! Where both compute in f32, sums in another order are all that differs: 1e-4 of the largest logit.
//!
//! Where weights are rounded to 16 bits, a number w becomes w(1 + ε), |ε| ≤ u (bf16: 2⁻⁸, f16: 2⁻¹¹), on average
//! ε² = 0.18 u² (a mantissa of uniform logarithm, its last half unit of uniform error). These errors are independent, so a
//! product of n of them is off by 0.42 u, relative to the root of its sum of squares, whatever n. With bf16 weights
//! activations are rounded so too, in both models. A block adds two branches to the residual stream, so the stream is off
//! by `c·u·√(2·layers)` of itself when it comes to the head, and so are logits about their mean, root mean square σ:
//!
//! `RMS Δlogit ≤ c·u·√(2·layers + 1)·σ`
//!
//! c has in it how a branch stretches errors (norms, soft-max). Over the tiny models of every family in `tests/fixtures` it
//! is 0.6 to 1.4 in bf16 and 0.5 to 1.2 in f16; the bound takes 2. A soft-max of logits that are off by e, root mean square
//! δ, has a divergence of ½·Var_p(e), here ½δ²: with δ the bound above, half of it is used at most. Among a hundred thousand logits the
//! furthest is some 5δ off, more where errors follow their logits: up to 16δ, and the bound takes 12 of its own. One module
//! of 21 that is not merged, or has twice its alpha, is 5 times beyond these bounds in bf16 and 40 times in f16.
//!
//! Products with quantised weights are of 16-bit fixed point with a scale for 64 numbers, whose errors follow the largest
//! of each 64: of a quantised base that is merged into 16 bits the furthest is up to 22 bounds of the root mean square off.
//!
//! Merged blocks have no such bound: what they cost an adapter is its effect that survives.

use super::effect::Effect;
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;

/// Largest difference of logits, relative to their largest size: f32 arithmetic in another order.
const IN_F32: f64 = 1e-4;
/// Share of that difference below which what an adapter does cannot be told from arithmetic.
const HIDDEN: f64 = 0.1;
/// c above.
const STRETCH: f64 = 2.0;
/// The largest difference, by the root mean square; and of a quantised base.
const FURTHEST: f64 = 12.0;
const FURTHEST_OF_BLOCKS: f64 = 40.0;

/// The allowed difference.
pub(super) enum Bound {
    /// Both compute in f32.
    F32,
    /// One is rounded to 16 bits: the unit round-off, the root of the number of errors that add up, and how far beyond
    /// the root mean square a single one may be.
    Half { unit: f64, depth: f64, furthest: f64 },
    /// The merged model is quantised.
    None,
}

impl Bound {
    pub fn new(policy: &Decoder, merged: &Decoder) -> Self {
        let units = [policy, merged].map(|decoder| unit(decoder.storage()));
        let depth = (2.0 * policy.spec().layers.len() as f64 + 1.0).sqrt();
        match units {
            [_, None] => Self::None,
            [Some(0.0), Some(0.0)] => Self::F32,
            // Attention over a quantised base is bf16.
            [None, Some(merged)] => {
                Self::Half { unit: BF16.max(merged), depth, furthest: FURTHEST_OF_BLOCKS }
            }
            [Some(policy), Some(merged)] => {
                Self::Half { unit: policy.max(merged), depth, furthest: FURTHEST }
            }
        }
    }

    /// Whether every number is rounded independently.
    pub fn is_exact(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Whether arithmetic in f32 alone moves log-probs as much as the adapter does.
    pub fn hides(&self, effect: &Effect) -> bool {
        matches!(self, Self::F32) && effect.shift() <= HIDDEN * IN_F32 * effect.largest
    }

    /// The largest Δlogit that the bound of its root mean square allows.
    fn furthest(&self) -> f64 {
        if let Self::Half { furthest, .. } = self { *furthest } else { FURTHEST }
    }

    /// The largest root mean square of Δlogit.
    fn difference(&self, effect: &Effect) -> Option<f64> {
        match self {
            Self::Half { unit, depth, .. } => Some(STRETCH * unit * depth * effect.spread()),
            _ => None,
        }
    }

    /// The shares of the bounds that are used up: root mean square, largest difference, divergence.
    #[cfg(test)]
    pub fn used(&self, effect: &Effect) -> [f64; 3] {
        match self.difference(effect) {
            Some(bound) => [
                effect.difference() / bound,
                effect.furthest / (self.furthest() * bound),
                effect.lost() / (0.5 * bound * bound),
            ],
            None => [0.0, effect.furthest / (IN_F32 * effect.largest), 0.0],
        }
    }

    /// The bound in words.
    pub fn describe(&self, effect: &Effect) -> String {
        match (self, self.difference(effect)) {
            (Self::F32, _) => format!("bound {IN_F32:.0e} relative"),
            (_, Some(bound)) => format!(
                "bounds {:.3e} at most, {bound:.3e} root mean square, KL {:.3e}",
                self.furthest() * bound,
                0.5 * bound * bound
            ),
            _ => "no bound for blocks".into(),
        }
    }

    /// Checks the measured effect against the bound.
    ///
    /// # Errors
    /// If a measured value exceeds the bound.
    pub fn check(&self, effect: &Effect) -> Result<()> {
        let far = |what: &str, found: f64, bound: f64| {
            // A NaN exceeds every bound.
            if found <= bound {
                return Ok(());
            }
            Err(Error::Weights(format!(
                "the merged model's logits are not those of base and adapter: {what} {found:.3e}, over the bound of {bound:.3e}"
            )))
        };
        match (self, self.difference(effect)) {
            (Self::F32, _) => far("maximum |Δlogit|", effect.furthest, IN_F32 * effect.largest),
            (_, Some(bound)) => {
                far("maximum |Δlogit|", effect.furthest, self.furthest() * bound)?;
                far("root mean square of Δlogit", effect.difference(), bound)?;
                far("KL", effect.lost(), 0.5 * bound * bound)
            }
            _ if effect.furthest.is_nan() => far("maximum |Δlogit|", effect.furthest, f64::MAX),
            _ => Ok(()),
        }
    }
}

const BF16: f64 = 1.0 / 256.0;

/// The unit round-off of a decoder's arithmetic; `None` for blocks. f16 is widened, and products are computed in f32.
fn unit(storage: &str) -> Option<f64> {
    let units = storage.split('+').map(|kind| match kind {
        "f32" => Some(0.0),
        "f16" => Some(1.0 / 2048.0),
        "bf16" => Some(BF16),
        _ => None,
    });
    units.collect::<Option<Vec<_>>>().map(|units| units.into_iter().fold(0.0, f64::max))
}
