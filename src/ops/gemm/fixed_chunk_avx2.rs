//! The integers of quantised weights with AVX2, as pairs of 16 bits: those of `fixed_chunk`, eight lanes at a time.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx2_pack::transpose;
use super::fixed_avx2::{magnitude, scales};
use super::fixed_chunk::GREATEST;
use super::fixed_pack_avx2::paired;
use super::operand::Operand;
use super::quantised::of_kind;
pub(super) use super::quantised_avx2::LANES;
use super::quantised_avx2::{Column, ReadAvx2, Scales};
use super::quantised_rows::{PART, Rows};
use super::tile::CHUNK;
use crate::weights::{BlockKind, Blocks};

/// A chunk of `k` of eight lanes.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    /// Factors of each 16 numbers, twice in a word.
    factors: [[u32; LANES]; CHUNK / 16],
    /// Minima of each part, twice in a word.
    minima: [[u32; LANES]; CHUNK / PART],
    /// Bytes from the beginning of a row to the block that has each part, and the part's index in it.
    parts: [(usize, usize); CHUNK / PART],
    /// The scales of the lanes.
    pub(super) scales: __m256,
}

impl Chunk {
    /// A chunk of no lanes.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn zero() -> Self {
        Self {
            factors: [[0; LANES]; CHUNK / 16],
            minima: [[0; LANES]; CHUNK / PART],
            parts: [(0, 0); CHUNK / PART],
            scales: _mm256_setzero_ps(),
        }
    }

    /// Reads the scales of the chunk that begins with number `at` of the rows, or of its first half if not `whole`.
    ///
    /// # Safety
    /// The rows must be of this type and have the numbers, `at` must consist of whole parts, and the processor must have AVX2,
    /// FMA and F16C.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn read<R: ReadAvx2>(&mut self, rows: &Rows<LANES>, at: usize, whole: bool) {
        let (numbers, size) = const { R::KIND.block() };
        let place = |index: usize| {
            let at = at + index * PART;
            (at / numbers * size, at % numbers / PART)
        };
        self.parts = [place(0), place(usize::from(whole))];
        let parts = self.parts.map(|(block, index)| {
            // SAFETY: the blocks are whole, inside the weight, and have `numbers / PART` parts.
            unsafe { R::scales_of(&Column { rows, block }, index) }
        });
        let greatest = _mm256_max_epi32(greatest::<R>(&parts[0]), greatest::<R>(&parts[1]));
        let (scales, inverse) = scales(greatest, GREATEST);
        self.scales = scales;
        let by = _mm256_mul_ps(inverse, _mm256_set1_ps(const { (1 << (15 - R::SHIFT)) as f32 }));
        for (i, of) in parts.iter().enumerate() {
            store(&mut self.factors[2 * i], doubled(_mm256_mul_ps(of.first, by)));
            if R::HALVES {
                store(&mut self.factors[2 * i + 1], doubled(_mm256_mul_ps(of.last, by)));
            }
            if R::MINIMA {
                store(&mut self.minima[i], doubled(_mm256_mul_ps(of.minimum, inverse)));
            }
        }
    }

    /// The integers of a part of a lane as pairs, in order. `row` is where the lane's row begins.
    ///
    /// # Safety
    /// The part must be one of those that were read with the same `R`, and the processor must have AVX2 and F16C.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub(super) unsafe fn part<R: ReadAvx2>(&self, row: *const u8, lane: usize, part: usize) -> [__m256i; 2] {
        let (block, index) = self.parts[part];
        // SAFETY: the caller guarantees this.
        let q = unsafe { R::halves(row.wrapping_add(block), index) };
        let of = |half: usize| broadcast(self.factors[2 * part + usize::from(R::HALVES) * half][lane]);
        let integers = |half: usize| {
            let product = _mm256_mulhrs_epi16(q[half], of(half));
            if R::MINIMA { _mm256_add_epi16(product, broadcast(self.minima[part][lane])) } else { product }
        };
        [integers(0), integers(1)]
    }
}

/// The greatest magnitude that a part can have, as bits.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn greatest<R: ReadAvx2>(of: &Scales) -> __m256i {
    let most = _mm256_set1_ps(R::MOST);
    if R::MINIMA {
        let end = magnitude(_mm256_fmadd_ps(of.first, most, of.minimum));
        return _mm256_max_epi32(magnitude(of.minimum), end);
    }
    let first = magnitude(_mm256_mul_ps(of.first, most));
    if R::HALVES { _mm256_max_epi32(first, magnitude(_mm256_mul_ps(of.last, most))) } else { first }
}

/// Rounded numbers of 16 bits, twice in a word.
#[inline]
#[target_feature(enable = "avx2")]
fn doubled(x: __m256) -> __m256i {
    let integers = _mm256_cvtps_epi32(x);
    paired(integers, integers)
}

#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(word: u32) -> __m256i {
    _mm256_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(to: &mut [u32; LANES], words: __m256i) {
    // SAFETY: the array is one vector.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), words) };
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
    let mut chunk = Chunk::zero();
    for lane in (0..width).step_by(LANES) {
        let (count, stored) = (lanes.len().saturating_sub(lane).min(LANES), (width - lane).min(LANES));
        let rows = (count > 0).then(|| Rows::of(blocks, lanes.start + lane, stride, count, k.end));
        let mut lines = to.chunks_exact_mut(width).map(|line| &mut line[lane..lane + stored]);
        let mut write = |words: __m256i| {
            let Some(line) = lines.next() else { return };
            if let Some(whole) = line.first_chunk_mut::<LANES>() {
                // SAFETY: the array is one vector.
                unsafe { _mm256_storeu_si256(whole.as_mut_ptr().cast(), words) };
                return;
            }
            let mut all = [0u32; LANES];
            store(&mut all, words);
            line.iter_mut().zip(all).for_each(|(to, word)| {
                to.write(word);
            });
        };
        for start in k.clone().step_by(CHUNK) {
            let parts = (k.end - start).min(CHUNK) / PART;
            if let Some(rows) = &rows {
                // SAFETY: `quantised_rows::fits` holds, and the rows have `k.end` numbers.
                unsafe { chunk.read::<R>(rows, start, parts == CHUNK / PART) };
            }
            for part in 0..parts {
                let mut lanes = [[_mm256_setzero_si256(); 2]; LANES];
                if let Some(rows) = &rows {
                    for (lane, words) in lanes.iter_mut().enumerate().take(count) {
                        // SAFETY: the part was read.
                        *words = unsafe { chunk.part::<R>(rows.start(lane), lane, part) };
                    }
                }
                for half in 0..2 {
                    transpose(lanes.map(|words| words[half])).into_iter().for_each(&mut write);
                }
            }
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let there = _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lane);
            write(_mm256_and_si256(there, _mm256_castps_si256(chunk.scales)));
        }
    }
}
