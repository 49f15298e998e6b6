//! AVX2 packing: builds the panels of numbers that `avx2` multiplies, eight lanes times eight steps at a time.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::lines::LINE;
use super::operand::Operand;
use super::strip::{AHEAD, Strip, prefetch};
use crate::weights::Elements;

/// Packs like `pack::panel`, for the layouts that have a vector form. Returns `false` if this one has none.
pub(super) fn panel(
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) -> bool {
    let (strip, at) = Strip::of(from, first, width, &k);
    let (by_row, by_column) = (from.k_stride == 1, from.lane_stride == 1);
    // A store of a part of a vector writes over the words of the next step, which must not be there yet.
    if width == 1 || width > 8 && !width.is_multiple_of(8) {
        return false;
    }
    let halves = is_x86_feature_detected!("f16c");
    // SAFETY: `Packing::Avx2` promised AVX2; `Operand::strided` checked that every index of the view is inside
    // its slice, and `pack::panel` that `to` holds the whole panel.
    unsafe {
        match from.data {
            Elements::F32(x) if by_row => rows_f32(&strip, x[at..].as_ptr(), to),
            Elements::Bf16(x) if by_row => rows_bf16(&strip, x[at..].as_ptr().cast(), to),
            Elements::F16(x) if by_row && halves => rows_f16(&strip, x[at..].as_ptr().cast(), to),
            Elements::F32(x) if by_column => columns_f32(&strip, x[at..].as_ptr(), to),
            Elements::Bf16(x) if by_column => columns_bf16(&strip, x[at..].as_ptr().cast(), to),
            Elements::F16(x) if by_column && halves => columns_f16(&strip, x[at..].as_ptr().cast(), to),
            Elements::F32(_) | Elements::Bf16(_) | Elements::F16(_) | Elements::Blocks(_) => return false,
        }
    }
    true
}

/// Selects the first `count` (0 to 8) of eight words.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(count: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// Loads `count` (0 to 8) elements as 8 words; the remaining words are zero.
///
/// # Safety
/// The elements must be readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load_f32(from: *const f32, count: usize) -> __m256i {
    // SAFETY: the load is masked to the elements the caller vouches for.
    unsafe {
        if count == 8 {
            _mm256_loadu_si256(from.cast())
        } else {
            _mm256_maskload_epi32(from.cast(), mask(count))
        }
    }
}

/// Loads `count` (0 to 8) halves; the others are zero.
///
/// # Safety
/// Same as [`load_f32`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn halves(from: *const u16, count: usize) -> __m128i {
    // SAFETY: only the elements the caller vouches for are read.
    unsafe {
        if count == 8 {
            return _mm_loadu_si128(from.cast());
        }
        let mut some = [0u16; 8];
        std::ptr::copy_nonoverlapping(from, some.as_mut_ptr(), count);
        _mm_loadu_si128(some.as_ptr().cast())
    }
}

/// # Safety
/// Same as [`load_f32`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load_bf16(from: *const u16, count: usize) -> __m256i {
    // SAFETY: as above.
    _mm256_slli_epi32(_mm256_cvtepu16_epi32(unsafe { halves(from, count) }), 16)
}

/// # Safety
/// Same as [`load_f32`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load_f16(from: *const u16, count: usize) -> __m256i {
    // SAFETY: as above.
    _mm256_castps_si256(_mm256_cvtph_ps(unsafe { halves(from, count) }))
}

/// Writes the lanes of one step: `count` words at `at`. Where the panel goes on behind them, whole vectors are written:
/// the words too many are the next ones to be written.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(to: &mut [MaybeUninit<u32>], at: usize, count: usize, words: __m256i) {
    let to = &mut to[at..];
    // SAFETY: the slice holds the words that are written.
    unsafe {
        if to.len() >= 8 {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), words);
        } else {
            debug_assert!(count <= to.len());
            _mm256_maskstore_epi32(to.as_mut_ptr().cast(), mask(count.min(to.len())), words);
        }
    }
}

/// Packs lanes that are far apart, with `k` contiguous.
macro_rules! by_row {
    ($name:ident, $type:ty, $load:ident, $features:literal) => {
        /// # Safety
        /// The strip must be inside the operand at `from`, and `to` must hold its whole panel.
        #[target_feature(enable = $features)]
        unsafe fn $name(strip: &Strip, from: *const $type, to: &mut [MaybeUninit<u32>]) {
            for lane in (0..strip.width).step_by(8) {
                let lanes = strip.lanes.saturating_sub(lane).min(8);
                let from = from.wrapping_add(lane * strip.lane_stride);
                // Steps whose lanes can be stored as whole vectors.
                let room = to.len().checked_sub(lane + 8).map_or(0, |room| room / strip.width + 1);
                let fast = room.min(strip.k) / 8 * 8;
                // Loops over a constant number of lanes are unrolled, without a branch for each.
                for step in (0..fast).step_by(8) {
                    let mut rows = [_mm256_setzero_si256(); 8];
                    let mut read = |count: usize| {
                        for (r, row) in rows.iter_mut().enumerate().take(count) {
                            let at = from.wrapping_add(r * strip.lane_stride + step);
                            if (step * size_of::<$type>()).is_multiple_of(4 * LINE) {
                                prefetch(at.wrapping_add(strip.width * strip.lane_stride));
                            }
                            // SAFETY: the lane and its elements are inside the operand.
                            *row = unsafe { $load(at, 8) };
                        }
                    };
                    match lanes {
                        8 => read(8),
                        6 => read(6),
                        _ => read(lanes),
                    }
                    for (s, column) in transpose(rows).into_iter().enumerate() {
                        // SAFETY: there is room for a vector.
                        unsafe {
                            let to = to.as_mut_ptr().add((step + s) * strip.width + lane);
                            _mm256_storeu_si256(to.cast(), column);
                        }
                    }
                }
                for step in (fast..strip.k).step_by(8) {
                    let count = (strip.k - step).min(8);
                    let mut rows = [_mm256_setzero_si256(); 8];
                    for (r, row) in rows.iter_mut().enumerate().take(lanes) {
                        // SAFETY: as above.
                        *row = unsafe { $load(from.wrapping_add(r * strip.lane_stride + step), count) };
                    }
                    for (s, column) in transpose(rows).into_iter().enumerate().take(count) {
                        store(to, (step + s) * strip.width + lane, (strip.width - lane).min(8), column);
                    }
                }
            }
        }
    };
}
by_row!(rows_f32, f32, load_f32, "avx2");
by_row!(rows_bf16, u16, load_bf16, "avx2");
by_row!(rows_f16, u16, load_f16, "avx2,f16c");

/// Packs contiguous lanes.
macro_rules! by_column {
    ($name:ident, $type:ty, $load:ident, $features:literal) => {
        /// # Safety
        /// The strip must be inside the operand at `from`, and `to` must hold its whole panel.
        #[target_feature(enable = $features)]
        unsafe fn $name(strip: &Strip, from: *const $type, to: &mut [MaybeUninit<u32>]) {
            for step in 0..strip.k {
                for lane in (0..strip.width).step_by(8) {
                    let lanes = strip.lanes.saturating_sub(lane).min(8);
                    prefetch(from.wrapping_add((step + AHEAD) * strip.k_stride + lane));
                    // SAFETY: the lanes' elements are inside the operand; without lanes nothing is read.
                    let row = unsafe { $load(from.wrapping_add(step * strip.k_stride + lane), lanes) };
                    store(to, step * strip.width + lane, (strip.width - lane).min(8), row);
                }
            }
        }
    };
}
by_column!(columns_f32, f32, load_f32, "avx2");
by_column!(columns_bf16, u16, load_bf16, "avx2");
by_column!(columns_f16, u16, load_f16, "avx2,f16c");

/// Transposes an 8×8 matrix of 32-bit words held in 8 vectors.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let zero = _mm256_setzero_si256();
    let (mut pairs, mut quads, mut out) = ([zero; 8], [zero; 8], [zero; 8]);
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Row 4i + c of `quads` holds, in each 128-bit lane l, column 4l + c of rows 4i..4i + 4.
    for i in 0..2 {
        quads[4 * i] = _mm256_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 1] = _mm256_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 2] = _mm256_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        quads[4 * i + 3] = _mm256_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    for c in 0..4 {
        out[c] = _mm256_permute2x128_si256(quads[c], quads[4 + c], 0x20);
        out[4 + c] = _mm256_permute2x128_si256(quads[c], quads[4 + c], 0x31);
    }
    out
}
