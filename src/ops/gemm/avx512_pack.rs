//! AVX-512 packing: builds the panels of words that `avx512` multiplies.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx512::mask;
use super::lines::LINE;
use super::operand::Operand;
use super::strip::{AHEAD, Strip, prefetch};
use crate::weights::Elements;

/// Packs like `pack::panel`, for the layouts that have a vector form. Returns `false` if this one has none.
pub(super) fn panel(
    pairs: bool,
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) -> bool {
    let (strip, at) = Strip::of(from, first, width, &k);
    let to = to.as_mut_ptr().cast::<u32>();
    let (by_row, by_column) = (from.k_stride == 1, from.lane_stride == 1);
    // SAFETY: `Packing::Avx512` promised AVX-512F/BW/VL (and BF16 for pairs); `Operand::strided` checked that every index
    // of the view is inside its slice, and `pack::panel` that `to` holds the whole panel.
    unsafe {
        match (from.data, pairs) {
            (Elements::F32(x), false) if by_row => rows_f32(&strip, x[at..].as_ptr(), to),
            (Elements::F32(x), true) if by_row => rows_f32_pairs(&strip, x[at..].as_ptr(), to),
            (Elements::Bf16(x), true) if by_row => rows_bf16_pairs(&strip, x[at..].as_ptr().cast(), to),
            (Elements::Bf16(x), false) if by_row => rows_bf16(&strip, x[at..].as_ptr().cast(), to),
            (Elements::F16(x), false) if by_row => rows_f16(&strip, x[at..].as_ptr().cast(), to),
            (Elements::F32(x), false) if by_column => columns_f32(&strip, x[at..].as_ptr(), to),
            (Elements::Bf16(x), false) if by_column => columns_bf16(&strip, x[at..].as_ptr().cast(), to),
            (Elements::F16(x), false) if by_column => columns_f16(&strip, x[at..].as_ptr().cast(), to),
            (Elements::F32(x), true) if by_column => columns_f32_pairs(&strip, x[at..].as_ptr(), to),
            (Elements::Bf16(x), true) if by_column => {
                columns_bf16_pairs(&strip, x[at..].as_ptr().cast(), to);
            }
            _ => return false,
        }
    }
    true
}

/// Loads `count` (0 to 16) elements as 16 words; the remaining words are zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load_f32(from: *const f32, count: usize) -> __m512i {
    // SAFETY: the load is masked to the elements the caller vouches for.
    unsafe { _mm512_maskz_loadu_epi32(mask(count), from.cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load_bf16(from: *const u16, count: usize) -> __m512i {
    // SAFETY: as above.
    _mm512_slli_epi32(unsafe { bf16_halves(from, count) }, 16)
}

/// Loads `count` (0 to 16) elements into the low halves of 16 words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn bf16_halves(from: *const u16, count: usize) -> __m512i {
    // SAFETY: as above.
    _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask(count), from.cast()) })
}

/// Like `bf16_halves`, but rounds f32 elements to bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn f32_halves(from: *const f32, count: usize) -> __m512i {
    // SAFETY: as above; both types are 256 bits and have no invalid values.
    _mm512_cvtepu16_epi32(unsafe {
        std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask(count), from)))
    })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load_f16(from: *const u16, count: usize) -> __m512i {
    // SAFETY: as above.
    let x = unsafe { _mm256_maskz_loadu_epi16(mask(count), from.cast()) };
    _mm512_castps_si512(_mm512_cvtph_ps(x))
}

/// Loads `count` (0 to 32) elements as 16 pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load_bf16_pairs(from: *const u16, count: usize) -> __m512i {
    let mask = ((1u64 << count) - 1) as __mmask32;
    // SAFETY: as above.
    unsafe { _mm512_maskz_loadu_epi16(mask, from.cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn load_f32_pairs(from: *const f32, count: usize) -> __m512i {
    // SAFETY: as above; a half without elements is not accessed (mask 0).
    unsafe {
        let low = _mm512_maskz_loadu_ps(mask(count.min(16)), from);
        let high = _mm512_maskz_loadu_ps(mask(count.saturating_sub(16)), from.wrapping_add(16));
        std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// Packs lanes that are far apart, with `k` contiguous. It transposes 16 lanes × 16 words at a time.
macro_rules! by_row {
    ($name:ident, $type:ty, $load:ident, $per_word:literal, $features:literal) => {
        /// # Safety
        /// The strip must be inside the operand at `from`, and `to` must hold its whole panel.
        #[target_feature(enable = $features)]
        unsafe fn $name(strip: &Strip, from: *const $type, to: *mut u32) {
            let steps = strip.k.div_ceil($per_word);
            for lane in (0..strip.width).step_by(16) {
                let lanes = strip.lanes.saturating_sub(lane).min(16);
                let store = mask((strip.width - lane).min(16));
                for step in (0..steps).step_by(16) {
                    let count = (strip.k - step * $per_word).min(16 * $per_word);
                    let mut rows = [_mm512_setzero_si512(); 16];
                    for (r, row) in rows.iter_mut().enumerate() {
                        if r < lanes {
                            let next = (lane + r + strip.width) * strip.lane_stride + step * $per_word;
                            prefetch(from.wrapping_add(next));
                            if 16 * $per_word * size_of::<$type>() > 4 * LINE {
                                prefetch(from.wrapping_add(next + 16));
                            }
                            // SAFETY: the lane and its elements are inside the operand.
                            *row = unsafe {
                                $load(from.add((lane + r) * strip.lane_stride + step * $per_word), count)
                            };
                        }
                    }
                    let columns = transpose(rows);
                    for (s, column) in columns.iter().enumerate() {
                        if s < steps - step {
                            // SAFETY: the step and its lanes are inside the panel.
                            unsafe {
                                let at = to.add((step + s) * strip.width + lane);
                                _mm512_mask_storeu_epi32(at.cast(), store, *column);
                            }
                        }
                    }
                }
            }
        }
    };
}
by_row!(rows_f32, f32, load_f32, 1, "avx512f,avx512bw,avx512vl");
by_row!(rows_bf16, u16, load_bf16, 1, "avx512f,avx512bw,avx512vl");
by_row!(rows_f16, u16, load_f16, 1, "avx512f,avx512bw,avx512vl");
by_row!(rows_bf16_pairs, u16, load_bf16_pairs, 2, "avx512f,avx512bw,avx512vl");
by_row!(rows_f32_pairs, f32, load_f32_pairs, 2, "avx512f,avx512bw,avx512vl,avx512bf16");

/// Packs contiguous lanes, one element per word.
macro_rules! by_column {
    ($name:ident, $type:ty, $load:ident) => {
        /// # Safety
        /// The strip must be inside the operand at `from`, and `to` must hold its whole panel.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        unsafe fn $name(strip: &Strip, from: *const $type, to: *mut u32) {
            for lane in (0..strip.width).step_by(16) {
                let lanes = strip.lanes.saturating_sub(lane).min(16);
                let store = mask((strip.width - lane).min(16));
                for step in 0..strip.k {
                    prefetch(from.wrapping_add((step + AHEAD) * strip.k_stride + lane));
                    // SAFETY: the lane and its elements are inside the operand; the step and its lanes are inside the
                    // panel.
                    unsafe {
                        let row = $load(from.wrapping_add(step * strip.k_stride + lane), lanes);
                        _mm512_mask_storeu_epi32(to.add(step * strip.width + lane).cast(), store, row);
                    }
                }
            }
        }
    };
}
by_column!(columns_f32, f32, load_f32);
by_column!(columns_bf16, u16, load_bf16);
by_column!(columns_f16, u16, load_f16);

/// Packs contiguous lanes, two rows of `k` per word.
macro_rules! by_column_pairs {
    ($name:ident, $type:ty, $halves:ident, $features:literal) => {
        /// # Safety
        /// The strip must be inside the operand at `from`, and `to` must hold its whole panel.
        #[target_feature(enable = $features)]
        unsafe fn $name(strip: &Strip, from: *const $type, to: *mut u32) {
            for lane in (0..strip.width).step_by(16) {
                let lanes = strip.lanes.saturating_sub(lane).min(16);
                let store = mask((strip.width - lane).min(16));
                for step in 0..strip.k.div_ceil(2) {
                    let odd_lanes = if 2 * step + 1 < strip.k { lanes } else { 0 };
                    prefetch(from.wrapping_add((2 * step + AHEAD) * strip.k_stride + lane));
                    prefetch(from.wrapping_add((2 * step + 1 + AHEAD) * strip.k_stride + lane));
                    // SAFETY: as above; a missing odd row is masked out.
                    unsafe {
                        let even_row = from.wrapping_add(2 * step * strip.k_stride + lane);
                        let even = $halves(even_row, lanes);
                        let odd = $halves(even_row.wrapping_add(strip.k_stride), odd_lanes);
                        let words = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
                        _mm512_mask_storeu_epi32(to.add(step * strip.width + lane).cast(), store, words);
                    }
                }
            }
        }
    };
}
by_column_pairs!(columns_bf16_pairs, u16, bf16_halves, "avx512f,avx512bw,avx512vl");
by_column_pairs!(columns_f32_pairs, f32, f32_halves, "avx512f,avx512bw,avx512vl,avx512bf16");

/// Transposes a 16×16 matrix of 32-bit words held in 16 vectors.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    let (mut pairs, mut quads, mut out) = ([zero; 16], [zero; 16], [zero; 16]);
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Row 4i + c of `quads` holds, in each 128-bit lane l, column 4l + c of rows 4i..4i + 4.
    for i in 0..4 {
        quads[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        quads[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    for c in 0..4 {
        let low = _mm512_shuffle_i32x4(quads[c], quads[4 + c], 0b1000_1000);
        let low_odd = _mm512_shuffle_i32x4(quads[c], quads[4 + c], 0b1101_1101);
        let high = _mm512_shuffle_i32x4(quads[8 + c], quads[12 + c], 0b1000_1000);
        let high_odd = _mm512_shuffle_i32x4(quads[8 + c], quads[12 + c], 0b1101_1101);
        out[c] = _mm512_shuffle_i32x4(low, high, 0b1000_1000);
        out[8 + c] = _mm512_shuffle_i32x4(low, high, 0b1101_1101);
        out[4 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, 0b1000_1000);
        out[12 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, 0b1101_1101);
    }
    out
}
