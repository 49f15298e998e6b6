//! Packing for AMX: the left operand's tiles, and numbers as two bf16 terms.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx512_pack::{Strip, f32_halves, load_f32_pairs, transpose};
use super::kernel::{CHUNK, Kernel};
use super::pack::{self, Side};
use super::{Elements, Operand};
use crate::ops::simd::vectorised;

/// Packs a strip of a left operand: for each 32 of `k`, the lanes below each other, 16 words of pairs in each.
pub(super) fn left(from: &Operand, first: usize, width: usize, k: Range<usize>, to: &mut [MaybeUninit<u32>]) {
    let (strip, at) = Strip::of(from, first, width, &k);
    let start = to.as_mut_ptr().cast::<u32>();
    match from.data {
        // SAFETY: words of tiles are chosen where there are AVX-512F/BW/VL and BF16; `Operand::strided` checked that every
        // index of the view is inside its slice, and `pack::panel` that `to` holds the whole panel.
        Elements::F32(x) if from.k_stride == 1 => unsafe { rows(&strip, x[at..].as_ptr(), start) },
        // SAFETY: as above.
        Elements::F32(x) if from.lane_stride == 1 => unsafe { columns(&strip, x[at..].as_ptr(), start) },
        _ => {
            let value = |lane: usize, at: usize| {
                if lane < strip.lanes && at < k.end { pack::load(from, first + lane, at) } else { 0.0 }
            };
            for (i, word) in to.iter_mut().enumerate() {
                let (lane, at) = (i / 16 % width, k.start + i / (16 * width) * 32 + i % 16 * 2);
                word.write(pack::pair(value(lane, at), value(lane, at + 1)));
            }
        }
    }
}

/// # Safety
/// The strip is inside the operand at `from`, and `to` holds its whole panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn rows(strip: &Strip, from: *const f32, to: *mut u32) {
    let mut to = to;
    for k in (0..strip.k).step_by(32) {
        let count = (strip.k - k).min(32);
        for lane in 0..strip.width {
            let mut words = _mm512_setzero_si512();
            // SAFETY: the lane's numbers are inside the operand, its words inside the panel.
            unsafe {
                if lane < strip.lanes {
                    words = load_f32_pairs(from.add(lane * strip.lane_stride + k), count);
                }
                _mm512_storeu_si512(to.cast(), words);
            }
            to = to.wrapping_add(16);
        }
    }
}

/// As [`rows`], of lanes that are contiguous. The panel's width is a multiple of 16.
///
/// # Safety
/// As [`rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn columns(strip: &Strip, from: *const f32, to: *mut u32) {
    let mut to = to;
    for k in (0..strip.k).step_by(32) {
        for lane in (0..strip.width).step_by(16) {
            let lanes = strip.lanes.saturating_sub(lane).min(16);
            let halves = |k: usize| {
                let count = if k < strip.k { lanes } else { 0 };
                // SAFETY: masked to what is inside the operand.
                unsafe { f32_halves(from.wrapping_add(k * strip.k_stride + lane), count) }
            };
            let mut pairs = [_mm512_setzero_si512(); 16];
            for (i, pair) in pairs.iter_mut().enumerate() {
                *pair = _mm512_or_si512(halves(k + 2 * i), _mm512_slli_epi32(halves(k + 2 * i + 1), 16));
            }
            for words in transpose(pairs) {
                // SAFETY: 16 lanes' words, inside the panel.
                unsafe { _mm512_storeu_si512(to.cast(), words) };
                to = to.wrapping_add(16);
            }
        }
    }
}

thread_local! {
    static TERMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Packs f32 numbers, contiguous along `k` or along the lanes, as two bf16 terms `high + low`: of each [`CHUNK`] numbers
/// `high, low, high` on the left and `high, high, low` on the right, so that their product is theirs but for `low·low`.
pub(super) fn split(
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
            // One after the other in memory: a lane's terms, or all lanes' of a row of `k`.
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
            pack::words(kernel, side, &operand, 0, width, 0..3 * length, to);
        }
    });
}

impl Side {
    /// Of the second and third part of the terms the one that is low, and the one that is high again.
    fn order<'a>(self, second: &'a mut [f32], third: &'a mut [f32]) -> (&'a mut [f32], &'a mut [f32]) {
        match self {
            Self::Left => (second, third),
            Self::Right => (third, second),
        }
    }
}

vectorised! {
    /// `x` rounded to bf16, twice, and what that leaves (of an infinity NaN, which its sums are then).
    fn cut(x: &[f32], high: &mut [f32], low: &mut [f32], again: &mut [f32]) {
        let _ = FMA;
        for (((x, high), low), again) in x.iter().zip(high).zip(low).zip(again) {
            // To nearest, ties to even, as the packing rounds; infinities stay, NaN is left to the packing.
            let bits = x.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
            let near = if x.is_nan() { *x } else { f32::from_bits(rounded) };
            *high = near;
            *again = near;
            *low = x - near;
        }
    }
}
