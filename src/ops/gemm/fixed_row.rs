//! One row times quantised weights in fixed point: `fixed`'s products, with the integers of `fixed_chunk` made in registers. Each
//! output is one row of the weight, read once. Vectors have 256 bits on every processor: memory is the limit, and Zen 4 takes as
//! long for one vector of 512 bits as for two of these.

use std::arch::x86_64::*;
use std::ops::Range;

use super::fixed_chunk::{FOUR, Factors};
use super::fixed_chunk_avx2::part;
use super::fixed_pack_avx2::LANES;
use super::operand::Operand;
use super::quantised::{Parts, TOGETHER, of_kind};
use super::quantised_avx2::ReadAvx2;
use super::quantised_rows::{PART, Rows};
use super::row_chunks::{Output, Pairs};
use super::tile::CHUNK;
use crate::weights::{BlockKind, Blocks};

/// Computes the outputs `lanes`.
///
/// # Safety
/// Same as `one_row::run`, for these outputs.
pub(super) unsafe fn group(
    blocks: &Blocks,
    chunks: &[Pairs],
    b: &Operand,
    lanes: Range<usize>,
    out: *mut f32,
    accumulate: bool,
) {
    // SAFETY: fixed-point words are selected only where the processor has AVX2, FMA and F16C here; the caller vouches for the
    // outputs.
    unsafe { of_kind!(blocks.kind(), outputs(blocks, chunks, b, lanes, out, accumulate)) }
}

/// # Safety
/// `out` must have room for the outputs, the operand must fit (`quantised_rows::fits`), and the processor must have AVX2, FMA and
/// F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn outputs<R: ReadAvx2>(
    blocks: &Blocks,
    chunks: &[Pairs],
    b: &Operand,
    lanes: Range<usize>,
    out: *mut f32,
    accumulate: bool,
) {
    let (rows, parts) = (Rows::of(blocks, lanes.clone(), b.lane_stride, b.k), b.k / PART);
    let mut factors = Factors::ZERO;
    for lane in 0..lanes.len() {
        // SAFETY: there is room for the output.
        let mut output = unsafe { Output::new(out.add(lane), accumulate) };
        for (four, chunks) in chunks.chunks(FOUR).enumerate() {
            let (row, first) = (rows.start(lane), four * TOGETHER);
            // SAFETY: the row has the parts.
            let products = unsafe {
                factors.read::<R>(Parts { row, first, count: (parts - first).min(TOGETHER) });
                products::<R>(row, first, &factors, chunks)
            };
            output.add(&products, chunks);
        }
    }
}

/// The products of up to four chunks of a row, the first of which begins with part `first`.
///
/// # Safety
/// The row must have the chunks and the factors be theirs. The processor must have AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn products<R: ReadAvx2>(
    row: *const u8,
    first: usize,
    factors: &Factors,
    chunks: &[Pairs],
) -> [f32; FOUR] {
    let of_part = |chunk: usize, half: usize| {
        let index = chunk * (CHUNK / PART) + half;
        let pairs = chunks[chunk].words.as_ptr().wrapping_add(half * PART / 2);
        // SAFETY: the caller guarantees this.
        unsafe {
            let [low, high] = part::<R>(row, first + index, factors, index);
            let a = [0, LANES].map(|at| _mm256_loadu_si256(pairs.wrapping_add(at).cast()));
            _mm256_add_epi32(_mm256_madd_epi16(a[0], low), _mm256_madd_epi16(a[1], high))
        }
    };
    let of_chunk = |chunk: usize| {
        if chunk >= chunks.len() {
            return _mm256_setzero_si256();
        }
        let sum = of_part(chunk, 0);
        if chunks[chunk].numbers > PART { _mm256_add_epi32(sum, of_part(chunk, 1)) } else { sum }
    };
    let sums = folded([of_chunk(0), of_chunk(1), of_chunk(2), of_chunk(3)]);
    let mut products = [0f32; FOUR];
    // SAFETY: the arrays are one vector each.
    unsafe {
        let scaled = _mm_mul_ps(_mm_cvtepi32_ps(sums), _mm_loadu_ps(factors.scales.as_ptr()));
        _mm_storeu_ps(products.as_mut_ptr(), scaled);
    }
    products
}

/// The sum of each of four vectors.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn folded(rows: [__m256i; FOUR]) -> __m128i {
    let pairs = [_mm256_hadd_epi32(rows[0], rows[1]), _mm256_hadd_epi32(rows[2], rows[3])];
    let halves = _mm256_hadd_epi32(pairs[0], pairs[1]);
    _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves))
}
