//! The integers of quantised weights with AVX2, as pairs of 16 bits, and their panels: those of `fixed_chunk_avx512`, eight lanes
//! at a time.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx2_pack::{store, transpose};
use super::fixed_chunk::{Factors, scales_behind};
use super::fixed_pack_avx2::LANES;
use super::operand::Operand;
use super::quantised::{Parts, TOGETHER, of_kind, place};
use super::quantised_avx2::ReadAvx2;
use super::quantised_rows::{PART, Rows};
use crate::weights::{BlockKind, Blocks};

/// The integers of part `part` of a row as pairs, in order. It is part `index` of those that have `factors`.
///
/// # Safety
/// The factors must be those of the row and of type `R`, and the processor must have AVX2.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn part<R: ReadAvx2>(
    row: *const u8,
    part: usize,
    factors: &Factors,
    index: usize,
) -> [__m256i; 2] {
    let (block, of_block) = place::<R>(part);
    // SAFETY: the caller guarantees this.
    let q = unsafe { R::halves(row.wrapping_add(block), of_block) };
    let first = broadcast(factors.first[index]);
    let last = if R::HALVES { broadcast(factors.last[index]) } else { first };
    let products = [_mm256_mulhrs_epi16(q[0], first), _mm256_mulhrs_epi16(q[1], last)];
    if !R::MINIMA {
        return products;
    }
    let minimum = broadcast(factors.minima[index]);
    products.map(|product| _mm256_add_epi16(product, minimum))
}

#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(word: u32) -> __m256i {
    _mm256_set1_epi32(word.cast_signed())
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
    // SAFETY: fixed-point words are selected only where the processor has AVX2, FMA and F16C here.
    unsafe { of_kind!(blocks.kind(), rows(blocks, from.lane_stride, lanes, width, k, to)) }
}

/// # Safety
/// The processor must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<R: ReadAvx2>(
    blocks: &Blocks,
    stride: usize,
    lanes: Range<usize>,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    let rows = Rows::of(blocks, lanes.clone(), stride, k.end);
    let mut factors = [Factors::ZERO; LANES];
    for lane in (0..width).step_by(LANES) {
        let (count, stored) = (lanes.len().saturating_sub(lane).min(LANES), (width - lane).min(LANES));
        let starts: [_; LANES] = std::array::from_fn(|i| rows.start(lane + i));
        let mut lines = to.chunks_exact_mut(width).map(|line| &mut line[lane..lane + stored]);
        let mut write = |words: __m256i| {
            let Some(line) = lines.next() else { return };
            store(line, 0, stored, words);
        };
        let parts = k.start / PART..k.end / PART;
        for first in parts.clone().step_by(TOGETHER) {
            let together = (parts.end - first).min(TOGETHER);
            for (factors, row) in factors.iter_mut().zip(starts).take(count) {
                // SAFETY: `quantised_rows::fits` holds, and the rows have `k.end` numbers.
                unsafe { factors.read::<R>(Parts { row, first, count: together }) };
            }
            for (index, number) in (first..first + together).enumerate() {
                let mut lanes = [[_mm256_setzero_si256(); 2]; LANES];
                for (lane, words) in lanes.iter_mut().enumerate().take(count) {
                    // SAFETY: the part's factors were read.
                    *words = unsafe { part::<R>(starts[lane], number, &factors[lane], index) };
                }
                for half in 0..2 {
                    transpose(lanes.map(|words| words[half])).into_iter().for_each(&mut write);
                }
                if let Some(scales) = scales_behind::<LANES>(&factors[..count], index, together) {
                    // SAFETY: the array is one vector.
                    write(unsafe { _mm256_loadu_si256(scales.as_ptr().cast()) });
                }
            }
        }
    }
}
