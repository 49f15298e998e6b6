//! One row times quantised weights in fixed point: `fixed`'s products, with the weights dequantised and scaled in
//! registers and the first-level cache.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::mask;
use super::avx512_pack::transpose;
use super::fixed::{magnitude, scales};
use super::operand::Operand;
use super::packed::Packed;
use super::tile::CHUNK;
use crate::weights::Blocks;

/// Outputs that share vectors.
const LANES: usize = 16;

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
        let count = (lanes.end - first).min(LANES);
        for block in 0..a.cut.blocks() {
            let (k, panel) = (a.cut.k_range(block), a.panel(block, 0));
            let out = out.wrapping_add(part * LANES);
            // SAFETY: fixed-point words are selected only where AVX-512F/BW/VL and VNNI are available; the caller
            // vouches for the outputs.
            unsafe { sums(&blocks, (first, b.lane_stride), count, k, panel, out, accumulate || block > 0) };
        }
    }
}

/// Computes `count` outputs over a block of `k`.
///
/// # Safety
/// `out` must have room for `count` numbers, and the processor must have AVX-512F, BW, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
unsafe fn sums(
    blocks: &Blocks,
    (first, stride): (usize, usize),
    count: usize,
    k: Range<usize>,
    panel: &[u32],
    out: *mut f32,
    accumulate: bool,
) {
    let mut numbers = [[0f32; CHUNK]; LANES];
    let mut sums = _mm512_setzero_ps();
    let mut words = panel;
    for start in k.clone().step_by(CHUNK) {
        let length = (k.end - start).min(CHUNK);
        let mut greatest = [_mm512_setzero_si512(); LANES];
        for (lane, (numbers, greatest)) in numbers.iter_mut().zip(&mut greatest).enumerate().take(count) {
            let at = (first + lane) * stride + start;
            match length {
                // The length is known to the compiler here.
                CHUNK => blocks.read(at, &mut numbers[..]),
                _ => {
                    numbers.fill(0.0);
                    blocks.read(at, &mut numbers[..length]);
                }
            }
            for x in vectors(numbers) {
                *greatest = _mm512_max_epi32(*greatest, magnitude(x));
            }
        }
        let all = transpose(greatest).into_iter().reduce(|a, b| _mm512_max_epi32(a, b));
        let (scale, inverse) = scales(all.unwrap_or(_mm512_setzero_si512()));
        let mut inverses = [0f32; LANES];
        // SAFETY: `inverses` holds the 16 numbers.
        unsafe { _mm512_storeu_ps(inverses.as_mut_ptr(), inverse) };
        let (pairs, rest) = words.split_at(length.div_ceil(2));
        let (a, of_a) = (halves(pairs), f32::from_bits(rest[0]));
        words = &rest[1..];
        let mut totals = [_mm512_setzero_si512(); LANES];
        for (lane, (numbers, total)) in numbers.iter().zip(&mut totals).enumerate().take(count) {
            let by = _mm512_set1_ps(inverses[lane]);
            let x =
                vectors(numbers).map(|x| _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(x, by))));
            for half in 0..2 {
                let low = _mm512_castsi256_si512(x[2 * half]);
                let integers = _mm512_inserti64x4::<1>(low, x[2 * half + 1]);
                *total = _mm512_dpwssd_epi32(*total, a[half], integers);
            }
        }
        let total = transpose(totals).into_iter().reduce(|a, b| _mm512_add_epi32(a, b));
        let total = _mm512_cvtepi32_ps(total.unwrap_or(_mm512_setzero_si512()));
        sums = _mm512_fmadd_ps(_mm512_mul_ps(total, scale), _mm512_set1_ps(of_a), sums);
    }
    let mask = mask(count);
    // SAFETY: the access is masked to the outputs.
    unsafe {
        if accumulate {
            sums = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), sums);
        }
        _mm512_mask_storeu_ps(out, mask, sums);
    }
}

/// The numbers of a chunk.
#[inline]
#[target_feature(enable = "avx512f")]
fn vectors(numbers: &[f32; CHUNK]) -> [__m512; 4] {
    // SAFETY: the chunk holds four vectors.
    std::array::from_fn(|i| unsafe { _mm512_loadu_ps(numbers[16 * i..].as_ptr()) })
}

/// Up to 32 words as two vectors; missing ones are zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(words: &[u32]) -> [__m512i; 2] {
    let count = words.len();
    [0, 16].map(|at: usize| {
        let mask = mask(count.saturating_sub(at).min(16));
        // SAFETY: the load is masked to the words.
        unsafe { _mm512_maskz_loadu_epi32(mask, words.as_ptr().wrapping_add(at).cast()) }
    })
}
