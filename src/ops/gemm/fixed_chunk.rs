//! Quantised weights in fixed point: chunks of 64 numbers as 16-bit integers times a scale, like those of `fixed`, but made
//! of the stored integers without numbers in f32.
//!
//! With `s` and `m` the scales and minima of a chunk's parts, and `q` up to `Q`, the scale of the chunk is `g / 5780`, where
//! `g` is the greatest of `|s|·Q` (with minima, of `|m|` and `|s·Q + m|`). An integer is `q` times `s` in units of that scale,
//! rounded to 13 bits or more, plus `m` in these units. Its error is at most one unit (with minima, two); both the
//! rounding of integers and that of scales have a root mean square of less than a third of a unit.
//!
//! Each row is read from its beginning to its end, since only then processors read ahead as fast as their memory allows.

use std::arch::x86_64::*;

use super::fixed_avx2::{magnitude, scales};
use super::fixed_pack_avx2::paired;
use super::quantised::{Parts, Read, Scales, TOGETHER};
use super::quantised_rows::PART;
use super::tile::CHUNK;

/// The greatest integer before it is rounded: two units less than the greatest of activations, so that the sum of a
/// chunk fits an i32.
const GREATEST: f32 = 5780.0;
const _: () = assert!(CHUNK as f64 * (GREATEST as f64 + 3.0) * 5793.0 < 2147483648.0);

/// Chunks whose factors are read together.
pub(super) const FOUR: usize = 4;
const _: () = assert!(FOUR * CHUNK == TOGETHER * PART);

/// What the integers of four chunks of a row are multiplied by. Words hold their 16 bits twice.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Factors {
    /// Factors of the first 16 numbers of each part.
    pub(super) first: [u32; TOGETHER],
    /// Factors of the last 16, where they differ.
    pub(super) last: [u32; TOGETHER],
    /// Minima of each part.
    pub(super) minima: [u32; TOGETHER],
    /// The scale of each chunk.
    pub(super) scales: [f32; FOUR],
}

impl Factors {
    /// Factors of no numbers.
    pub(super) const ZERO: Self =
        Self { first: [0; TOGETHER], last: [0; TOGETHER], minima: [0; TOGETHER], scales: [0.0; FOUR] };

    /// Reads the factors of some parts of a row, which begin with a chunk.
    ///
    /// # Safety
    /// The row must be of this type and have the parts. The processor must have AVX2, FMA and F16C.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn read<R: Read>(&mut self, parts: Parts) {
        // SAFETY: the caller guarantees this.
        let of = unsafe { R::scales(parts) };
        let greatest = greatest::<R>(&of);
        // That of the other part of the chunk, if there is one.
        let mut other = _mm256_shuffle_epi32::<0b10_11_00_01>(greatest);
        if !parts.count.is_multiple_of(2) {
            let neighbour = _mm256_setr_epi32(1, 0, 3, 2, 5, 4, 7, 6);
            let there = _mm256_cmpgt_epi32(_mm256_set1_epi32(parts.count as i32), neighbour);
            other = _mm256_blendv_epi8(greatest, other, there);
        }
        let (scales, inverse) = scales(_mm256_max_epi32(greatest, other), GREATEST);
        let by = _mm256_mul_ps(inverse, _mm256_set1_ps(const { (1 << (15 - R::SHIFT)) as f32 }));
        store(&mut self.first, doubled(_mm256_mul_ps(of.first, by)));
        if R::HALVES {
            store(&mut self.last, doubled(_mm256_mul_ps(of.last, by)));
        }
        if R::MINIMA {
            store(&mut self.minima, doubled(_mm256_mul_ps(of.minimum, inverse)));
        }
        let even = _mm256_permutevar8x32_ps(scales, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
        // SAFETY: the array is one vector.
        unsafe { _mm_storeu_ps(self.scales.as_mut_ptr(), _mm256_castps256_ps128(even)) };
    }
}

/// The scales that a panel has behind part `index` of `parts`, if it is the last of its chunk. Missing lanes have zero.
pub(super) fn scales_behind<const LANES: usize>(
    lanes: &[Factors],
    index: usize,
    parts: usize,
) -> Option<[f32; LANES]> {
    let last = (index + 1).is_multiple_of(CHUNK / PART) || index + 1 == parts;
    let scale = |lane: usize| lanes.get(lane).map_or(0.0, |of| of.scales[index / (CHUNK / PART)]);
    last.then(|| std::array::from_fn(scale))
}

/// The greatest magnitude that a part can have, as bits.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn greatest<R: Read>(of: &Scales) -> __m256i {
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
fn store(to: &mut [u32; TOGETHER], words: __m256i) {
    // SAFETY: the array is one vector.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), words) };
}
