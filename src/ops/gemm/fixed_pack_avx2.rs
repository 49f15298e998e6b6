//! AVX2 packing of numbers as 16-bit fixed point: the words and scales of `fixed`, eight lanes at a time.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx2_pack::{load_bf16, load_f32, store, transpose};
use super::fixed::GREATEST;
use super::fixed_avx2::{magnitude, scales};
use super::lines::LINE;
use super::operand::Operand;
use super::strip::{AHEAD, Strip, prefetch};
use super::tile::CHUNK;

/// Lanes that share vectors.
pub(super) const LANES: usize = 8;

/// Vectors of the pairs of a chunk.
pub(super) const VECTORS: usize = CHUNK / 2 / LANES;

/// How numbers are stored: f32, or bf16 as its bits.
pub(super) trait Numbers: Copy + Default {
    /// Loads `count` (0 to 8) numbers; the others are zero.
    ///
    /// # Safety
    /// They must be readable, and the processor must have AVX2.
    unsafe fn load(from: *const Self, count: usize) -> __m256;

    /// Eight magnitudes as bits, of which the greatest is that of the whole chunk.
    ///
    /// # Safety
    /// The chunk must be readable, and the processor must have AVX2.
    unsafe fn greatest(chunk: *const Self) -> __m256i;

    /// The integers of a chunk as pairs, in order.
    ///
    /// # Safety
    /// Same as [`Numbers::greatest`].
    unsafe fn integers(chunk: *const Self, inverse: __m256) -> [__m256i; VECTORS];
}

impl Numbers for f32 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(from: *const Self, count: usize) -> __m256 {
        // SAFETY: the caller guarantees this.
        _mm256_castsi256_ps(unsafe { load_f32(from, count) })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn greatest(chunk: *const Self) -> __m256i {
        (0..CHUNK / LANES).fold(_mm256_setzero_si256(), |most, i| {
            // SAFETY: the caller guarantees this.
            _mm256_max_epi32(most, magnitude(unsafe { _mm256_loadu_ps(chunk.add(LANES * i)) }))
        })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn integers(chunk: *const Self, inverse: __m256) -> [__m256i; VECTORS] {
        std::array::from_fn(|i| {
            let [low, high] = [2 * i, 2 * i + 1].map(|i| {
                // SAFETY: the caller guarantees this.
                rounded(unsafe { _mm256_loadu_ps(chunk.add(LANES * i)) }, inverse)
            });
            // The instruction takes quarters from both in turn.
            _mm256_permute4x64_epi64::<0b1101_1000>(_mm256_packs_epi32(low, high))
        })
    }
}

impl Numbers for u16 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(from: *const Self, count: usize) -> __m256 {
        // SAFETY: the caller guarantees this.
        _mm256_castsi256_ps(unsafe { load_bf16(from, count) })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn greatest(chunk: *const Self) -> __m256i {
        let most = (0..VECTORS).fold(_mm256_setzero_si256(), |most, i| {
            // SAFETY: the caller guarantees this.
            let pairs = unsafe { _mm256_loadu_si256(chunk.add(2 * LANES * i).cast()) };
            _mm256_max_epi16(most, _mm256_and_si256(pairs, _mm256_set1_epi16(0x7fff)))
        });
        let [even, odd] = widened(most);
        _mm256_max_epi32(even, odd)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn integers(chunk: *const Self, inverse: __m256) -> [__m256i; VECTORS] {
        std::array::from_fn(|i| {
            // SAFETY: the caller guarantees this.
            let pairs = unsafe { _mm256_loadu_si256(chunk.add(2 * LANES * i).cast()) };
            let [even, odd] = widened(pairs).map(|x| rounded(_mm256_castsi256_ps(x), inverse));
            paired(even, odd)
        })
    }
}

/// The even and the odd of sixteen bf16, as f32.
#[inline]
#[target_feature(enable = "avx2")]
fn widened(pairs: __m256i) -> [__m256i; 2] {
    let high = _mm256_set1_epi32(0xffff_0000u32.cast_signed());
    [_mm256_slli_epi32::<16>(pairs), _mm256_and_si256(pairs, high)]
}

/// The integers nearest to `x·inverse`.
#[inline]
#[target_feature(enable = "avx2")]
fn rounded(x: __m256, inverse: __m256) -> __m256i {
    _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse))
}

/// Pairs of the low halves of words.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn paired(low: __m256i, high: __m256i) -> __m256i {
    _mm256_blend_epi16::<0b1010_1010>(low, _mm256_slli_epi32::<16>(high))
}

/// The scales of the chunks of eight lanes and their inverses, from the magnitudes of each lane.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn scales_of(greatest: [__m256i; LANES]) -> (__m256, [f32; LANES]) {
    let all = transpose(greatest).into_iter().fold(_mm256_setzero_si256(), |a, b| _mm256_max_epi32(a, b));
    let (scale, inverse) = scales(all, GREATEST);
    let mut inverses = [0f32; LANES];
    // SAFETY: the array is one vector.
    unsafe { _mm256_storeu_ps(inverses.as_mut_ptr(), inverse) };
    (scale, inverses)
}

/// Whether [`panel`] packs panels of this width: a vector that is stored must not reach words that are already there.
pub(super) fn fits(width: usize) -> bool {
    width < LANES || width.is_multiple_of(LANES)
}

/// Packs like `pack::panel`, for an operand that is contiguous along `k` or along its lanes, whose first number is at `x`.
///
/// # Panics
/// Panics if the panel is of another size, or of a width that does not fit.
pub(super) fn panel<T: Numbers>(
    x: &[T],
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    assert!(fits(width), "a panel of {width} lanes");
    let (strip, at) = Strip::of(from, first, width, &k);
    let x = x[at..].as_ptr();
    // SAFETY: fixed-point words are selected only where the processor has AVX2; `Operand::strided` checked that every index
    // of the view is inside its slice.
    unsafe { if from.k_stride == 1 { rows(&strip, x, to) } else { columns(&strip, x, to) } }
}

/// Packs lanes that are far apart, with `k` contiguous.
///
/// # Safety
/// The strip must be inside the operand at `from`, and the processor must have AVX2.
#[target_feature(enable = "avx2")]
unsafe fn rows<T: Numbers>(strip: &Strip, from: *const T, mut to: &mut [MaybeUninit<u32>]) {
    let zero = _mm256_setzero_si256();
    let mut last = [[T::default(); CHUNK]; LANES];
    for start in (0..strip.k).step_by(CHUNK) {
        let length = (strip.k - start).min(CHUNK);
        let pairs = length.div_ceil(2);
        for lane in (0..strip.width).step_by(LANES) {
            let lanes = strip.lanes.saturating_sub(lane).min(LANES);
            let stored = (strip.width - lane).min(LANES);
            let mut chunks = [last[0].as_ptr(); LANES];
            let mut greatest = [zero; LANES];
            for (r, (chunk, last)) in chunks.iter_mut().zip(&mut last).enumerate().take(lanes) {
                *chunk = from.wrapping_add((lane + r) * strip.lane_stride + start);
                let next = chunk.wrapping_add(strip.width * strip.lane_stride);
                (0..CHUNK).step_by(4 * LINE / size_of::<T>()).for_each(|at| prefetch(next.wrapping_add(at)));
                // SAFETY: the numbers are inside the operand, and the copy has a whole chunk.
                unsafe {
                    if length < CHUNK {
                        std::ptr::copy_nonoverlapping(*chunk, last.as_mut_ptr(), length);
                        *chunk = last.as_ptr();
                    }
                    greatest[r] = T::greatest(*chunk);
                }
            }
            let (scale, inverses) = scales_of(greatest);
            let mut words = [[zero; LANES]; VECTORS];
            for (r, (chunk, inverse)) in chunks.iter().zip(inverses).enumerate().take(lanes) {
                // SAFETY: as above.
                let of_lane = unsafe { T::integers(*chunk, _mm256_set1_ps(inverse)) };
                words.iter_mut().zip(of_lane).for_each(|(words, x)| words[r] = x);
            }
            let columns = words.into_iter().flat_map(|words| transpose(words)).take(pairs);
            for (step, column) in columns.chain([_mm256_castps_si256(scale)]).enumerate() {
                store(to, step * strip.width + lane, stored, column);
            }
        }
        to = &mut to[(pairs + 1) * strip.width..];
    }
}

/// Packs contiguous lanes: two rows of `k` per step.
///
/// # Safety
/// Same as [`rows`].
#[target_feature(enable = "avx2")]
unsafe fn columns<T: Numbers>(strip: &Strip, from: *const T, mut to: &mut [MaybeUninit<u32>]) {
    for start in (0..strip.k).step_by(CHUNK) {
        let end = (start + CHUNK).min(strip.k);
        let pairs = (end - start).div_ceil(2);
        for lane in (0..strip.width).step_by(LANES) {
            let lanes = strip.lanes.saturating_sub(lane).min(LANES);
            let stored = (strip.width - lane).min(LANES);
            // SAFETY: the lanes' numbers are inside the operand; without lanes nothing is read.
            let row = |k: usize| unsafe { T::load(from.wrapping_add(k * strip.k_stride + lane), lanes) };
            let mut greatest = _mm256_setzero_si256();
            for k in start..end {
                prefetch(from.wrapping_add((k + AHEAD) * strip.k_stride + lane));
                greatest = _mm256_max_epi32(greatest, magnitude(row(k)));
            }
            let (scale, inverse) = scales(greatest, GREATEST);
            let integers = |k: usize| {
                let x = if k < end { row(k) } else { _mm256_setzero_ps() };
                rounded(x, inverse)
            };
            for step in 0..pairs {
                let k = start + 2 * step;
                store(to, step * strip.width + lane, stored, paired(integers(k), integers(k + 1)));
            }
            store(to, pairs * strip.width + lane, stored, _mm256_castps_si256(scale));
        }
        to = &mut to[(pairs + 1) * strip.width..];
    }
}
