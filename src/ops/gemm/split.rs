//! Packing of numbers as two bf16 terms each.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::kernel::Kernel;
use super::operand::{Operand, Side};
use super::tile::CHUNK;
use super::words;
use crate::ops::simd::vectorised;
use crate::weights::Elements;

thread_local! {
    static TERMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Packs f32 numbers, contiguous along `k` or along the lanes, as two bf16 terms `high + low`. Each [`CHUNK`] numbers
/// become `high, low, high` on the left and `high, high, low` on the right, so that their product is that of the
/// numbers except for `low·low`.
pub(super) fn panel(
    kernel: &Kernel,
    side: Side,
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    let Elements::F32(x) = from.data else { return };
    let lanes = width.min(from.lanes - first);
    let by_row = from.k_stride == 1;
    TERMS.with_borrow_mut(|terms| {
        for (part, to) in to.chunks_mut(kernel.word.steps(CHUNK) * width).enumerate() {
            let start = k.start + part * CHUNK;
            let length = CHUNK.min(k.end - start);
            let at = first * from.lane_stride + start * from.k_stride;
            terms.resize(3 * lanes * length, 0.0);
            // The terms are contiguous in memory for each lane, or for all lanes of a row of `k`.
            let operand = if by_row {
                for (lane, terms) in terms.chunks_exact_mut(3 * length).enumerate() {
                    let (high, rest) = terms.split_at_mut(length);
                    let (second, third) = rest.split_at_mut(length);
                    let (low, again) = side.order(second, third);
                    cut(&x[at + lane * from.lane_stride..][..length], high, low, again);
                }
                Operand::by_row(Elements::F32(terms), lanes, 3 * length)
            } else {
                let (high, rest) = terms.split_at_mut(length * lanes);
                let (second, third) = rest.split_at_mut(length * lanes);
                let (low, again) = side.order(second, third);
                for row in 0..length {
                    let part = row * lanes..(row + 1) * lanes;
                    cut(
                        &x[at + row * from.k_stride..][..lanes],
                        &mut high[part.clone()],
                        &mut low[part.clone()],
                        &mut again[part],
                    );
                }
                Operand::by_column(Elements::F32(terms), 3 * length, lanes)
            };
            words::panel(kernel, side, &operand, 0, width, 0..3 * length, to);
        }
    });
}

impl Side {
    /// Returns the low part and the repeated high part, from the second and third parts of the terms.
    fn order<'a>(self, second: &'a mut [f32], third: &'a mut [f32]) -> (&'a mut [f32], &'a mut [f32]) {
        match self {
            Self::Left => (second, third),
            Self::Right => (third, second),
        }
    }
}

vectorised! {
    /// Writes `x` rounded to bf16 twice, and the remainder. The remainder of an infinity is NaN, and so are its sums.
    fn cut(x: &[f32], high: &mut [f32], low: &mut [f32], again: &mut [f32]) {
        let _ = FMA;
        for (((x, high), low), again) in x.iter().zip(high).zip(low).zip(again) {
            // Rounds to nearest, ties to even, like the packing; infinities stay, and NaN is left to the packing.
            let bits = x.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
            let near = if x.is_nan() { *x } else { f32::from_bits(rounded) };
            *high = near;
            *again = near;
            *low = x - near;
        }
    }
}
