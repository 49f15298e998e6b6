//! Packing for AMX: the tiles of the left operand.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx512_pack::{f32_halves, load_f32_pairs, transpose};
use super::operand::{Operand, load};
use super::strip::Strip;
use super::tile::pair;
use crate::weights::Elements;

/// Packs a strip of a left operand: for each 32 elements of `k`, the lanes follow each other, each with 16 words of
/// pairs.
pub(super) fn left(from: &Operand, first: usize, width: usize, k: Range<usize>, to: &mut [MaybeUninit<u32>]) {
    let (strip, at) = Strip::of(from, first, width, &k);
    let start = to.as_mut_ptr().cast::<u32>();
    match from.data {
        // SAFETY: tile words are selected only where AVX-512F/BW/VL and BF16 are available; `Operand::strided` checked
        // that every index of the view is inside its slice, and `pack::panel` that `to` holds the whole panel.
        Elements::F32(x) if from.k_stride == 1 => unsafe { rows(&strip, x[at..].as_ptr(), start) },
        // SAFETY: as above.
        Elements::F32(x) if from.lane_stride == 1 => unsafe { columns(&strip, x[at..].as_ptr(), start) },
        _ => {
            let value = |lane: usize, at: usize| {
                if lane < strip.lanes && at < k.end { load(from, first + lane, at) } else { 0.0 }
            };
            for (i, word) in to.iter_mut().enumerate() {
                let (lane, at) = (i / 16 % width, k.start + i / (16 * width) * 32 + i % 16 * 2);
                word.write(pair(value(lane, at), value(lane, at + 1)));
            }
        }
    }
}

/// # Safety
/// The strip must be inside the operand at `from`, and `to` must hold its whole panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn rows(strip: &Strip, from: *const f32, to: *mut u32) {
    let mut to = to;
    for k in (0..strip.k).step_by(32) {
        let count = (strip.k - k).min(32);
        for lane in 0..strip.width {
            let mut words = _mm512_setzero_si512();
            // SAFETY: the lane's numbers are inside the operand, and its words are inside the panel.
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

/// Like [`rows`], for contiguous lanes. The panel's width is a multiple of 16.
///
/// # Safety
/// Same as [`rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn columns(strip: &Strip, from: *const f32, to: *mut u32) {
    let mut to = to;
    for k in (0..strip.k).step_by(32) {
        for lane in (0..strip.width).step_by(16) {
            let lanes = strip.lanes.saturating_sub(lane).min(16);
            let halves = |k: usize| {
                let count = if k < strip.k { lanes } else { 0 };
                // SAFETY: the load is masked to what is inside the operand.
                unsafe { f32_halves(from.wrapping_add(k * strip.k_stride + lane), count) }
            };
            let mut pairs = [_mm512_setzero_si512(); 16];
            for (i, pair) in pairs.iter_mut().enumerate() {
                *pair = _mm512_or_si512(halves(k + 2 * i), _mm512_slli_epi32(halves(k + 2 * i + 1), 16));
            }
            for words in transpose(pairs) {
                // SAFETY: the words of the 16 lanes are inside the panel.
                unsafe { _mm512_storeu_si512(to.cast(), words) };
                to = to.wrapping_add(16);
            }
        }
    }
}
