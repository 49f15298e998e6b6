//! The searches for the scales and minima of a super-block. The arithmetic is in f32 and in the order of ggml's
//! reference, so that the bits are the same. The eight sub-blocks are searched side by side as lanes of vectors,
//! because their searches are independent; the sums of each are still added in the order of its numbers.

use std::array::from_fn;

use super::rounding::{nearest, nearest_level};

/// Sub-blocks of a super-block, and numbers of a sub-block.
pub const LANES: usize = 8;
pub const NUMBERS: usize = 32;

/// One number of every sub-block.
pub type Lanes = [f32; LANES];

/// The number of divisions that are tried: the range divided into `levels - 0.9` to `levels + 0.9` parts.
const STEPS: u8 = 37;

/// The numbers of eight sub-blocks, transposed.
pub struct SubBlocks {
    /// The numbers.
    x: [Lanes; NUMBERS],
    /// The weight of each number's squared error.
    weights: [Lanes; NUMBERS],
    /// The sums of the weights and of the weighted numbers.
    w: Lanes,
    wx: Lanes,
}

/// An approximation x ≈ scale·code + minimum, and its weighted squared error.
struct Fit {
    scale: Lanes,
    minimum: Lanes,
    error: Lanes,
}

impl SubBlocks {
    /// Creates sub-blocks from their numbers and the weight of each number's squared error.
    pub fn new(x: [Lanes; NUMBERS], weights: [Lanes; NUMBERS]) -> Self {
        let (mut w, mut wx) = ([0.0; LANES], [0.0; LANES]);
        for (x, weight) in x.iter().zip(&weights) {
            for s in 0..LANES {
                w[s] += weight[s];
                wx[s] += weight[s] * x[s];
            }
        }
        Self { x, weights, w, wx }
    }

    /// Returns the sum of each sub-block's weights.
    pub fn sums_of_weights(&self) -> &Lanes {
        &self.w
    }

    /// Returns the scales and the negated minima with the least error among those tried (`make_qkx3_quants`): the range
    /// divided into `levels` parts, and the least-squares fit to the codes of each of 37 divisions. As in ggml, the
    /// range of a division begins at the best minimum so far.
    pub fn search(&self, levels: u8) -> (Lanes, Lanes) {
        let levels = f32::from(levels);
        let (lowest, highest) = self.range();
        let scale = from_fn(|s| 1.0 / (levels / (highest[s] - lowest[s])));
        let codes = self.codes(from_fn(|s| levels / (highest[s] - lowest[s])), lowest, levels);
        let error = self.error(&codes, scale, lowest);
        let mut best = Fit { scale, minimum: lowest, error };
        for step in 0..STEPS {
            let parts = -0.9 + 0.05 * f32::from(step) + levels;
            let inverse = from_fn(|s| parts / (highest[s] - best.minimum[s]));
            let codes = self.codes(inverse, best.minimum, levels);
            best.improve(&self.fit(&codes));
        }
        // Without a range (numbers that are equal and not positive) the minimum represents all numbers.
        let flat = |s: usize| highest[s] <= lowest[s];
        let scale = from_fn(|s| if flat(s) { 0.0 } else { best.scale[s] });
        (scale, from_fn(|s| if flat(s) { -lowest[s] } else { -best.minimum[s] }))
    }

    /// Returns the smallest number of each sub-block, or 0 if all are positive, and the largest.
    fn range(&self) -> (Lanes, Lanes) {
        let (mut lowest, mut highest) = (self.x[0], self.x[0]);
        for x in &self.x[1..] {
            lowest = from_fn(|s| if x[s] < lowest[s] { x[s] } else { lowest[s] });
            highest = from_fn(|s| if x[s] > highest[s] { x[s] } else { highest[s] });
        }
        (lowest.map(|x| if x > 0.0 { 0.0 } else { x }), highest)
    }

    /// Returns the codes of all numbers: `(x - minimum)·inverse`, rounded and limited to `0..=levels`.
    #[inline(always)]
    fn codes(&self, inverse: Lanes, minimum: Lanes, levels: f32) -> [Lanes; NUMBERS] {
        self.x.map(|x| from_fn(|s| nearest_level(inverse[s] * (x[s] - minimum[s]), levels)))
    }

    /// Returns the weighted squared error of scale·code + minimum.
    #[inline(always)]
    fn error(&self, codes: &[Lanes; NUMBERS], scale: Lanes, minimum: Lanes) -> Lanes {
        let mut error = [0.0; LANES];
        for ((x, weight), code) in self.x.iter().zip(&self.weights).zip(codes) {
            for s in 0..LANES {
                let difference = scale[s] * code[s] + minimum[s] - x[s];
                error[s] += weight[s] * (difference * difference);
            }
        }
        error
    }

    /// Returns the weighted least-squares fit to codes, with a minimum that is not positive. The error is infinite if
    /// the equations have no solution.
    #[inline(always)]
    fn fit(&self, codes: &[Lanes; NUMBERS]) -> Fit {
        let (w, wx) = (&self.w, &self.wx);
        let [mut wl, mut wll, mut wlx] = [[0.0; LANES]; 3];
        for ((x, weight), code) in self.x.iter().zip(&self.weights).zip(codes) {
            for s in 0..LANES {
                let weighted = weight[s] * code[s];
                wl[s] += weighted;
                wll[s] += weight[s] * (code[s] * code[s]);
                wlx[s] += weighted * x[s];
            }
        }
        let (mut scale, mut minimum) = ([0.0; LANES], [0.0; LANES]);
        let determinant: Lanes = from_fn(|s| w[s] * wll[s] - wl[s] * wl[s]);
        for s in 0..LANES {
            scale[s] = (w[s] * wlx[s] - wx[s] * wl[s]) / determinant[s];
            minimum[s] = (wll[s] * wx[s] - wl[s] * wlx[s]) / determinant[s];
            if minimum[s] > 0.0 {
                (scale[s], minimum[s]) = (wlx[s] / wll[s], 0.0);
            }
        }
        let error = self.error(codes, scale, minimum);
        Fit {
            scale,
            minimum,
            error: from_fn(|s| if determinant[s] > 0.0 { error[s] } else { f32::INFINITY }),
        }
    }
}

impl Fit {
    /// Replaces the fit of each sub-block for which the error of `other` is smaller.
    fn improve(&mut self, other: &Self) {
        for s in 0..LANES {
            if other.error[s] < self.error[s] {
                self.scale[s] = other.scale[s];
                self.minimum[s] = other.minimum[s];
                self.error[s] = other.error[s];
            }
        }
    }
}

/// Returns a common scale of eight scales or minima `x` and their codes, `0..=levels`, with a small weighted squared
/// error (`make_qp_quants`). The best of nine divisions of the largest number is chosen; then single codes are moved.
///
/// As in candle, integers keep only their lower eight bits before they are limited to `levels`.
pub fn scale_of_scales(levels: u8, x: &Lanes, weights: &Lanes) -> (f32, [u8; LANES]) {
    let largest = x.iter().copied().fold(0.0, f32::max);
    if largest == 0.0 {
        return (0.0, [0; LANES]);
    }
    let error = |inverse: f32, most: u8| -> f32 {
        let squares = x.iter().zip(weights).map(|(x, weight)| {
            let difference = x - 1.0 / inverse * f32::from((nearest(inverse * x) as u8).min(most));
            weight * difference * difference
        });
        squares.sum()
    };
    let mut inverse = f32::from(levels) / largest;
    let mut least = error(inverse, u8::MAX);
    for nudge in [-4i8, -3, -2, -1, 1, 2, 3, 4] {
        let tried = (0.1 * f32::from(nudge) + f32::from(levels)) / largest;
        let found = error(tried, levels);
        if found < least {
            (inverse, least) = (tried, found);
        }
    }
    let mut codes = x.map(|x| nearest(inverse * x).clamp(0, i32::from(levels)) as u8);
    let scale = refine(levels, x, weights, &mut codes);
    (scale, codes)
}

/// Moves single codes to the optimum given the others if the error becomes smaller, up to five times, and returns the
/// least-squares scale.
fn refine(levels: u8, x: &Lanes, weights: &Lanes, codes: &mut [u8; LANES]) -> f32 {
    let (mut wlx, mut wll) = (0.0, 0.0);
    for ((x, weight), code) in x.iter().zip(weights).zip(&*codes) {
        let code = f32::from(*code);
        wlx += weight * x * code;
        wll += weight * (code * code);
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((x, weight), code) in x.iter().zip(weights).zip(&mut *codes) {
            let old = f32::from(*code);
            let (others_x, others) = (wlx - weight * x * old, wll - weight * (old * old));
            if others_x > 0.0 && others > 0.0 {
                let new = (nearest(x * others / others_x) as u8).min(levels);
                let found_x = others_x + weight * x * f32::from(new);
                let found = others + weight * (f32::from(new) * f32::from(new));
                if new != *code && found_x * found_x * wll > wlx * wlx * found {
                    (*code, wlx, wll, changed) = (new, found_x, found, true);
                }
            }
        }
        if !changed {
            break;
        }
    }
    wlx / wll
}
