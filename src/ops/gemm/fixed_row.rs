//! One row times quantised weights in fixed point: `fixed`'s products, with the integers of `fixed_chunk` made in registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::mask;
use super::fixed_chunk::{Chunk, LANES, folded};
use super::operand::Operand;
use super::packed::Packed;
use super::quantised::{Read, of_kind};
use super::tile::CHUNK;
use crate::weights::{BlockKind, Blocks};

/// Most chunks of a block of `k` (`Kernel::select`).
const CHUNKS: usize = 8;

/// Computes the outputs `lanes`.
///
/// # Safety
/// Same as `one_row::run`, for these outputs.
pub(super) unsafe fn group(
    blocks: Blocks,
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
                    sums(&blocks, b.lane_stride, lanes.clone(), k, panel, out, accumulate)
                );
            }
        }
    }
}

/// Computes up to 16 outputs over a block of `k`.
///
/// # Safety
/// `out` must have room for them, the operand must fit (`quantised::fits`), and the processor must have AVX-512F, BW, DQ,
/// VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
unsafe fn sums<R: Read>(
    blocks: &Blocks,
    stride: usize,
    lanes: Range<usize>,
    k: Range<usize>,
    panel: &[u32],
    out: *mut f32,
    accumulate: bool,
) {
    // The same rows of the next outputs.
    let (numbers, size) = R::KIND.block();
    let (ahead, count) = (LANES * stride / numbers * size, lanes.len());
    assert!(k.len() <= CHUNKS * CHUNK, "a block of {k:?}");
    // All scales first: each has a long chain of operations, and those of several chunks overlap.
    let mut chunks = [Chunk::zero(); CHUNKS];
    for (chunk, start) in chunks.iter_mut().zip(k.clone().step_by(CHUNK)) {
        let at = (lanes.start * stride + start, stride);
        // SAFETY: the caller guarantees this.
        unsafe { chunk.read::<R>(blocks, at, count, k.end - start >= CHUNK) };
    }
    let mut sums = _mm512_setzero_ps();
    let mut words = panel;
    for (chunk, start) in chunks.iter().zip(k.clone().step_by(CHUNK)) {
        let (pairs, rest) = words.split_at((k.end - start).min(CHUNK) / 2);
        let (a, of_a) = (halves(pairs), f32::from_bits(rest[0]));
        words = &rest[1..];
        let total = |lane: usize| {
            // SAFETY: the lane was read.
            let [low, high] = unsafe { chunk.integers::<R>(lane, ahead) };
            _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(_mm512_setzero_si512(), a[0], low), a[1], high)
        };
        // Unrolled, so that the sums stay in registers.
        let totals: [__m512i; LANES] = if count == LANES {
            std::array::from_fn(total)
        } else {
            std::array::from_fn(|lane| if lane < count { total(lane) } else { _mm512_setzero_si512() })
        };
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
