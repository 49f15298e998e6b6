//! One row times quantised weights in fixed point: `fixed`'s products, with the integers of `fixed_chunk` made in registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::mask;
use super::fixed_chunk::{Chunk, LANES, folded};
use super::operand::Operand;
use super::packed::Packed;
use super::quantised::{Read, of_kind};
use super::quantised_rows::{PART, Rows};
use super::tile::CHUNK;
use crate::weights::{BlockKind, Blocks};

/// Most chunks of a block of `k` (`Kernel::select`).
pub(super) const CHUNKS: usize = 8;

/// What the scales of a group's chunks are kept in, for one group after another.
pub(super) struct Scratch([Chunk; CHUNKS]);

impl Scratch {
    /// # Safety
    /// The processor must have AVX-512F.
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
            // SAFETY: fixed-point words are selected only where AVX-512F/BW/VL and VNNI are available; the caller
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

/// Computes up to 16 outputs over a block of `k`.
///
/// # Safety
/// `out` must have room for them, the operand must fit (`quantised_rows::fits`), and the processor must have AVX-512F, BW, DQ,
/// VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
unsafe fn sums<R: Read>(
    (blocks, Scratch(chunks)): (&Blocks, &mut Scratch),
    stride: usize,
    lanes: Range<usize>,
    k: Range<usize>,
    panel: &[u32],
    out: *mut f32,
    accumulate: bool,
) {
    // The same rows of the next outputs.
    let (numbers, size) = const { R::KIND.block() };
    let (ahead, count) = (LANES * stride / numbers * size, lanes.len());
    assert!(k.len() <= CHUNKS * CHUNK, "a block of {k:?}");
    let rows = Rows::of(blocks, lanes.start, stride, count, k.end);
    // All scales first: each has a long chain of operations, and those of several chunks overlap.
    for (chunk, start) in chunks.iter_mut().zip(k.clone().step_by(CHUNK)) {
        // SAFETY: the caller guarantees this.
        unsafe { chunk.read::<R>(&rows, start, k.end - start >= CHUNK) };
    }
    let mut sums = _mm512_setzero_ps();
    let mut words = panel;
    for (chunk, start) in chunks.iter().zip(k.clone().step_by(CHUNK)) {
        let (pairs, rest) = words.split_at((k.end - start).min(CHUNK) / 2);
        let (a, of_a) = (halves(pairs), f32::from_bits(rest[0]));
        words = &rest[1..];
        let part = |sum, lane: usize, part: usize| {
            // SAFETY: the part was read.
            _mm512_dpwssd_epi32(sum, a[part], unsafe { chunk.part::<R>(rows.start(lane), lane, part) })
        };
        // Unrolled, so that the sums stay in registers. Sums of lanes that are missing are not stored.
        let mut totals: [__m512i; LANES] = std::array::from_fn(|lane| {
            chunk.prefetch(rows.start(0), ahead, lane);
            part(_mm512_setzero_si512(), lane, 0)
        });
        if pairs.len() > PART / 2 {
            totals = std::array::from_fn(|lane| part(totals[lane], lane, 1));
        }
        let total = _mm512_cvtepi32_ps(folded(totals, |x, y| _mm512_add_epi32(x, y)));
        sums = _mm512_fmadd_ps(_mm512_mul_ps(total, chunk.scales), _mm512_set1_ps(of_a), sums);
    }
    let mask = mask(lanes.len());
    // SAFETY: the access is masked to the outputs.
    unsafe {
        if accumulate {
            sums = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), sums);
        }
        _mm512_mask_storeu_ps(out, mask, sums);
    }
}

/// Up to 32 words as two vectors; missing ones are zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(words: &[u32]) -> [__m512i; 2] {
    let count = words.len();
    let half = |at: usize| {
        let mask = mask(count.saturating_sub(at).min(16));
        // SAFETY: the load is masked to the words.
        unsafe { _mm512_maskz_loadu_epi32(mask, words.as_ptr().wrapping_add(at).cast()) }
    };
    [half(0), half(16)]
}
