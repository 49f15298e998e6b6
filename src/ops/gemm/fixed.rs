//! Products of 16-bit fixed point on AVX-512 VNNI.
//!
//! In each lane of an operand, 64 numbers that are neighbours in `k` become integers of at most 5792 times one f32
//! scale, which follows from the greatest of them. The products of two chunks are summed exactly in i32, 32 per vector
//! instruction as for bf16. The sum times both scales is added to the f32 sums of the tile. This is block floating
//! point (Wilkinson, "Rounding Errors in Algebraic Processes", 1963, I.26). If the numbers of a chunk have the root
//! mean square `s` and the greatest magnitude `g`, the rounding error is `g / (5792·√12)`. Relative to `s` that is
//! 1.3e-4 for Gaussian numbers (g ≈ 2.6 s) and 4e-4 for one number beside 63 small ones; no chunk moves by more than
//! √64 / (2·5792) of its norm. The error of rounding to bf16 is 1.7e-3. The integers of quantised weights are made of the stored
//! ones (`fixed_chunk`).

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx512::{mask, of_size, step, store};
use super::avx512_pack::transpose;
use super::operand::Operand;
use super::strip::Strip;
use super::tile::{CHUNK, Part, Tile, Work};

/// The greatest integer. The sum of a chunk fits an i32, as 64·5792² < 2³¹.
pub(super) const GREATEST: f32 = 5792.0;
const _: () = assert!(CHUNK as f64 * GREATEST as f64 * (GREATEST as f64) < 2147483648.0);

/// A chunk whose greatest number is below this (2⁻¹⁰⁰) counts as zeros, as the inverse of its scale may not be finite.
pub(super) const TINY: f32 = f32::from_bits((127 - 100) << 23);

pub(super) fn tile(mr: usize, nv: usize) -> Tile {
    of_size!(body, mr, nv)
}

/// # Safety
/// Same as `Kernel::run`; the processor must have AVX-512F and VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn body<const MR: usize, const NV: usize>(work: Work) {
    let Work { parts, c, stride, rows, columns, accumulate, .. } = work;
    let Part { steps, a, b } = parts[0];
    let mut sums = [[_mm512_setzero_ps(); NV]; MR];
    let (mut a, mut b, mut left) = (a, b, steps);
    while left > 0 {
        // The pairs of a chunk, then the step with its scales.
        let pairs = (left - 1).min(CHUNK / 2);
        left -= pairs + 1;
        let mut integers = [[_mm512_setzero_si512(); NV]; MR];
        // SAFETY: the panels hold `steps` steps of `MR` and `16·NV` words.
        unsafe {
            for _ in 0..pairs {
                step!(_mm512_dpwssd_epi32, integers, a, b);
            }
            for (r, (sums, integers)) in sums.iter_mut().zip(&integers).enumerate() {
                let x = _mm512_set1_ps(f32::from_bits(*a.add(r)));
                for (v, (sum, &integer)) in sums.iter_mut().zip(integers).enumerate() {
                    let y = _mm512_loadu_ps(b.add(16 * v).cast());
                    *sum = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(integer), y), x, *sum);
                }
            }
            a = a.add(MR);
            b = b.add(16 * NV);
        }
    }
    // SAFETY: the caller guarantees this.
    unsafe { store(&sums, c, stride, rows, columns, accumulate) };
}

/// Returns `|x|` as bits, which order as integers like the numbers do, with NaN above all.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn magnitude(x: __m512) -> __m512i {
    _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fff_ffff))
}

/// Returns the scales of 16 chunks, given their greatest magnitudes and the integer that these become, and the inverses. An
/// infinity or a NaN makes the scale infinite or NaN, and with it everything the chunk is multiplied into.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn scales(greatest: __m512i, integer: f32) -> (__m512, __m512) {
    let greatest = _mm512_castsi512_ps(greatest);
    let live = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(greatest, _mm512_set1_ps(TINY));
    (
        _mm512_maskz_mul_ps(live, greatest, _mm512_set1_ps(1.0 / integer)),
        _mm512_maskz_div_ps(live, _mm512_set1_ps(integer), greatest),
    )
}

/// Packs like `pack::panel`, for an operand of the numbers `x` that is contiguous along `k` or along its lanes.
pub(super) fn panel(
    x: &[f32],
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    let (strip, at) = Strip::of(from, first, width, &k);
    let (x, to) = (x[at..].as_ptr(), to.as_mut_ptr().cast());
    // SAFETY: fixed-point words are selected only where AVX-512F/BW/VL are available; `Operand::strided` checked that
    // every index of the view is inside its slice, and `pack::panel` that `to` holds the whole panel.
    unsafe { if from.k_stride == 1 { rows(&strip, x, to) } else { columns(&strip, x, to) } }
}

/// Packs lanes that are far apart, with `k` contiguous: 16 lanes of a chunk at a time.
///
/// # Safety
/// The strip must be inside the operand at `from`, `to` must hold its whole panel, and the processor must have
/// AVX-512F, BW and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn rows(strip: &Strip, from: *const f32, to: *mut u32) {
    for lane in (0..strip.width).step_by(16) {
        let lanes = strip.lanes.saturating_sub(lane).min(16);
        let stored = mask((strip.width - lane).min(16));
        let mut to = to.wrapping_add(lane);
        for start in (0..strip.k).step_by(CHUNK) {
            let length = (strip.k - start).min(CHUNK);
            let quarters: [_; CHUNK / 16] =
                std::array::from_fn(|q| mask(length.saturating_sub(16 * q).min(16)));
            let numbers = |r: usize, q: usize| {
                let at = from.wrapping_add((lane + r) * strip.lane_stride + start + 16 * q);
                // SAFETY: the load is masked to the chunk, which is inside the operand.
                unsafe { _mm512_maskz_loadu_ps(quarters[q], at) }
            };
            let mut greatest = [_mm512_setzero_si512(); 16];
            for (r, greatest) in greatest.iter_mut().enumerate().take(lanes) {
                for q in 0..quarters.len() {
                    *greatest = _mm512_max_epi32(*greatest, magnitude(numbers(r, q)));
                }
            }
            let all = transpose(greatest).into_iter().reduce(|a, b| _mm512_max_epi32(a, b));
            let (scale, inverse) = scales(all.unwrap_or(_mm512_setzero_si512()), GREATEST);
            let mut inverses = [0f32; 16];
            // SAFETY: `inverses` holds the 16 words.
            unsafe { _mm512_storeu_ps(inverses.as_mut_ptr(), inverse) };
            for half in 0..2 {
                let pairs = length.div_ceil(2).saturating_sub(16 * half).min(16);
                let mut words = [_mm512_setzero_si512(); 16];
                for (r, words) in words.iter_mut().enumerate().take(lanes) {
                    let integers = |q| {
                        let x = _mm512_mul_ps(numbers(r, q), _mm512_set1_ps(inverses[r]));
                        _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x))
                    };
                    let low = _mm512_castsi256_si512(integers(2 * half));
                    *words = _mm512_inserti64x4::<1>(low, integers(2 * half + 1));
                }
                for column in &transpose(words)[..pairs] {
                    // SAFETY: the step and its lanes are inside the panel.
                    unsafe { _mm512_mask_storeu_epi32(to.cast(), stored, *column) };
                    to = to.wrapping_add(strip.width);
                }
            }
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(to.cast(), stored, scale) };
            to = to.wrapping_add(strip.width);
        }
    }
}

/// Packs contiguous lanes: two rows of `k` per step.
///
/// # Safety
/// Same as [`rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn columns(strip: &Strip, from: *const f32, to: *mut u32) {
    for lane in (0..strip.width).step_by(16) {
        let lanes = mask(strip.lanes.saturating_sub(lane).min(16));
        let stored = mask((strip.width - lane).min(16));
        let mut to = to.wrapping_add(lane);
        for start in (0..strip.k).step_by(CHUNK) {
            let end = (start + CHUNK).min(strip.k);
            let row = |k: usize| {
                let at = from.wrapping_add(k * strip.k_stride + lane);
                // SAFETY: the load is masked to existing lanes of an existing row.
                unsafe { _mm512_maskz_loadu_ps(if k < end { lanes } else { 0 }, at) }
            };
            let mut greatest = _mm512_setzero_si512();
            for k in start..end {
                greatest = _mm512_max_epi32(greatest, magnitude(row(k)));
            }
            let (scale, inverse) = scales(greatest, GREATEST);
            let integers = |k| _mm512_cvtps_epi32(_mm512_mul_ps(row(k), inverse));
            for k in (start..end).step_by(2) {
                let odd = _mm512_slli_epi32::<16>(integers(k + 1));
                let words = _mm512_mask_blend_epi16(0xaaaa_aaaa, integers(k), odd);
                // SAFETY: the step and its lanes are inside the panel.
                unsafe { _mm512_mask_storeu_epi32(to.cast(), stored, words) };
                to = to.wrapping_add(strip.width);
            }
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(to.cast(), stored, scale) };
            to = to.wrapping_add(strip.width);
        }
    }
}
