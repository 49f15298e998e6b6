//! The integers of quantised weights with AVX-512, as pairs of 16 bits, and their panels.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx512::mask;
use super::avx512_pack::transpose;
use super::fixed_chunk::{Factors, scales_behind};
use super::operand::Operand;
use super::quantised::{Parts, TOGETHER, of_kind, place};
use super::quantised_avx512::ReadAvx512;
use super::quantised_rows::{PART, Rows};
use crate::weights::{BlockKind, Blocks};

/// Lanes of a vector.
const LANES: usize = 16;

/// The integers of part `part` of a row as pairs, in order. It is part `index` of those that have `factors`.
///
/// # Safety
/// The factors must be those of the row and of type `R`, and the processor must have AVX-512F, BW, DQ and VL.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn part<R: ReadAvx512>(row: *const u8, part: usize, factors: &Factors, index: usize) -> __m512i {
    let (block, of_block) = place::<R>(part);
    // SAFETY: the caller guarantees this.
    let q = unsafe { R::integers(row.wrapping_add(block), of_block) };
    let mut factor = broadcast(factors.first[index]);
    if R::HALVES {
        factor = _mm512_mask_blend_epi64(0xf0, factor, broadcast(factors.last[index]));
    }
    let product = _mm512_mulhrs_epi16(q, factor);
    if R::MINIMA { _mm512_add_epi16(product, broadcast(factors.minima[index])) } else { product }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(word: u32) -> __m512i {
    _mm512_set1_epi32(word.cast_signed())
}

/// Packs like `pack::panel`, for an operand that `quantised_rows::fits`.
pub(super) fn panel(
    blocks: &Blocks,
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    let lanes = first..from.lanes.min(first + width);
    let to = to.as_mut_ptr().cast();
    // SAFETY: fixed-point words are selected only where AVX-512F/BW/DQ/VL and VNNI are available; `direct::panel` checked the
    // size of the panel.
    unsafe { of_kind!(blocks.kind(), rows(blocks, from.lane_stride, lanes, width, k, to)) }
}

/// # Safety
/// `to` must hold the whole panel, and the processor must have AVX-512F, BW, DQ and VL, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn rows<R: ReadAvx512>(
    blocks: &Blocks,
    stride: usize,
    lanes: Range<usize>,
    width: usize,
    k: Range<usize>,
    to: *mut u32,
) {
    let rows = Rows::of(blocks, lanes.clone(), stride, k.end);
    let mut factors = [Factors::ZERO; LANES];
    for lane in (0..width).step_by(LANES) {
        let count = lanes.len().saturating_sub(lane).min(LANES);
        let stored = mask((width - lane).min(LANES));
        let starts: [_; LANES] = std::array::from_fn(|i| rows.start(lane + i));
        let mut to = to.wrapping_add(lane);
        let mut write = |words: __m512i| {
            // SAFETY: the step and its lanes are inside the panel.
            unsafe { _mm512_mask_storeu_epi32(to.cast(), stored, words) };
            to = to.wrapping_add(width);
        };
        let parts = k.start / PART..k.end / PART;
        for first in parts.clone().step_by(TOGETHER) {
            let together = (parts.end - first).min(TOGETHER);
            for (factors, row) in factors.iter_mut().zip(starts).take(count) {
                // SAFETY: `quantised_rows::fits` holds, and the rows have `k.end` numbers.
                unsafe { factors.read::<R>(Parts { row, first, count: together }) };
            }
            for (index, number) in (first..first + together).enumerate() {
                let mut words = [_mm512_setzero_si512(); LANES];
                for (lane, words) in words.iter_mut().enumerate().take(count) {
                    // SAFETY: the part's factors were read.
                    *words = unsafe { part::<R>(starts[lane], number, &factors[lane], index) };
                }
                transpose(words).into_iter().for_each(&mut write);
                if let Some(scales) = scales_behind::<LANES>(&factors[..count], index, together) {
                    // SAFETY: the array is one vector.
                    write(unsafe { _mm512_loadu_si512(scales.as_ptr().cast()) });
                }
            }
        }
    }
}
