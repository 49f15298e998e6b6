//! One row times quantised weights in fixed point with AVX2: `fixed_row` for eight outputs at a time.

use std::arch::x86_64::*;
use std::ops::Range;

use super::fixed_chunk_avx2::{Chunk, LANES};
use super::fixed_row::CHUNKS;
use super::operand::Operand;
use super::packed::Packed;
use super::quantised::of_kind;
use super::quantised_avx2::ReadAvx2;
use super::quantised_rows::{PART, Rows};
use super::tile::CHUNK;
use crate::weights::{BlockKind, Blocks};

/// What the scales of a group's chunks are kept in, for one group after another.
pub(super) struct Scratch([Chunk; CHUNKS]);

impl Scratch {
    /// # Safety
    /// The processor must have AVX2.
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the caller guarantees this.
        Self([unsafe { Chunk::zero() }; CHUNKS])
    }
}

/// Computes the outputs `lanes`.
///
/// # Safety
/// Same as `one_row::run`, for these outputs.
pub(super) unsafe fn group(
    (blocks, scratch): (Blocks, &mut Scratch),
    a: &Packed,
    b: &Operand,
    lanes: Range<usize>,
    out: *mut f32,
    accumulate: bool,
) {
    for (part, first) in lanes.clone().step_by(LANES).enumerate() {
        let lanes = first..lanes.end.min(first + LANES);
        for block in 0..a.cut.blocks() {
            let (k, panel) = (a.cut.k_range(block), a.panel(block, 0));
            let out = out.wrapping_add(part * LANES);
            let accumulate = accumulate || block > 0;
            // SAFETY: fixed-point words are selected only where the processor has AVX2, FMA and F16C here; the caller
            // vouches for the outputs.
            unsafe {
                of_kind!(
                    blocks.kind(),
                    sums((&blocks, scratch), b.lane_stride, lanes.clone(), k, panel, out, accumulate)
                );
            }
        }
    }
}

/// Computes up to eight outputs over a block of `k`.
///
/// # Safety
/// `out` must have room for them, the operand must fit (`quantised_rows::fits`), and the processor must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn sums<R: ReadAvx2>(
    (blocks, Scratch(chunks)): (&Blocks, &mut Scratch),
    stride: usize,
    lanes: Range<usize>,
    k: Range<usize>,
    panel: &[u32],
    out: *mut f32,
    accumulate: bool,
) {
    // The same rows of the next outputs but one.
    let (numbers, size) = const { R::KIND.block() };
    let ahead = 2 * LANES * stride / numbers * size;
    assert!(k.len() <= CHUNKS * CHUNK, "a block of {k:?}");
    let rows = Rows::of(blocks, lanes.start, stride, lanes.len(), k.end);
    // All scales first: each has a long chain of operations, and those of several chunks overlap.
    for (chunk, start) in chunks.iter_mut().zip(k.clone().step_by(CHUNK)) {
        // SAFETY: the caller guarantees this.
        unsafe { chunk.read::<R>(&rows, start, k.end - start >= CHUNK) };
    }
    let mut sums = _mm256_setzero_ps();
    let mut words = panel;
    for (chunk, start) in chunks.iter().zip(k.clone().step_by(CHUNK)) {
        let (pairs, rest) = words.split_at((k.end - start).min(CHUNK) / 2);
        let (a, of_a) = (vectors(pairs), f32::from_bits(rest[0]));
        words = &rest[1..];
        let near = ahead + start / numbers * size;
        // Sums of lanes that are missing are not stored.
        let totals = std::array::from_fn(|lane| {
            let row = rows.start(lane);
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(near).cast());
            let part = |part: usize| {
                // SAFETY: the part was read.
                let [low, high] = unsafe { chunk.part::<R>(row, lane, part) };
                let products =
                    [_mm256_madd_epi16(a[2 * part], low), _mm256_madd_epi16(a[2 * part + 1], high)];
                _mm256_add_epi32(products[0], products[1])
            };
            let first = part(0);
            if pairs.len() > PART / 2 { _mm256_add_epi32(first, part(1)) } else { first }
        });
        let total = _mm256_cvtepi32_ps(folded(totals));
        sums = _mm256_fmadd_ps(_mm256_mul_ps(total, chunk.scales), _mm256_set1_ps(of_a), sums);
    }
    // SAFETY: the caller guarantees this.
    unsafe { store(sums, out, lanes.len(), accumulate) };
}

/// Writes the first `count` of eight outputs, or adds them.
///
/// # Safety
/// `out` must have room for them, and the processor must have AVX2.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn store(sums: __m256, out: *mut f32, count: usize, accumulate: bool) {
    let mut line = [0f32; LANES];
    // SAFETY: the array is one vector, and `out` has room for the outputs.
    unsafe {
        _mm256_storeu_ps(line.as_mut_ptr(), sums);
        for (lane, sum) in line.iter().enumerate().take(count) {
            let to = out.add(lane);
            *to = if accumulate { *to + sum } else { *sum };
        }
    }
}

/// Up to 32 words as four vectors; missing ones are zero.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn vectors(words: &[u32]) -> [__m256i; 4] {
    let mut all = [0u32; CHUNK / 2];
    all[..words.len()].copy_from_slice(words);
    // SAFETY: the array is four vectors.
    std::array::from_fn(|i| unsafe { _mm256_loadu_si256(all[LANES * i..].as_ptr().cast()) })
}

/// The sum of each of eight rows, in their order.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn folded(rows: [__m256i; 8]) -> __m256i {
    let pair = |i: usize| _mm256_hadd_epi32(rows[i], rows[i + 1]);
    let quad = |i: usize| _mm256_hadd_epi32(pair(i), pair(i + 2));
    let (low, high) = (quad(0), quad(4));
    _mm256_add_epi32(
        _mm256_permute2x128_si256::<0x20>(low, high),
        _mm256_permute2x128_si256::<0x31>(low, high),
    )
}
