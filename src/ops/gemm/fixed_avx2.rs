//! Products of 16-bit fixed point with AVX2: the numbers, scales and sums are those of `fixed`, and so are the bits. Two instructions
//! multiply and add eight pairs; with AVX-VNNI (Intel since 2021, AMD's Zen 5) it is one.

use std::arch::x86_64::*;

use super::avx2::store;
use super::fixed::TINY;
use super::tile::{CHUNK, Part, Tile, Work};

/// Numbers of a vector.
const WIDTH: usize = 8;

/// Returns the kernel of a tile of `mr` (1 or 6) rows and 16 columns.
pub(super) fn tile(mr: usize) -> Tile {
    match (mr, is_x86_feature_detected!("avxvnni")) {
        (1, false) => pairs::<1>,
        (_, false) => pairs::<6>,
        (1, true) => fused::<1>,
        (_, true) => fused::<6>,
    }
}

macro_rules! body {
    ($name:ident, $features:literal, $sum:ident, $x:ident, $y:ident => $add:expr) => {
        /// # Safety
        /// Same as `Kernel::run`; the processor must have these features.
        #[target_feature(enable = $features)]
        unsafe fn $name<const MR: usize>(work: Work) {
            let Part { steps, mut a, mut b } = work.parts[0];
            let mut sums = [[_mm256_setzero_ps(); 2]; MR];
            let mut left = steps;
            while left > 0 {
                // The pairs of a chunk, then the step with its scales.
                let pairs = (left - 1).min(CHUNK / 2);
                left -= pairs + 1;
                let mut integers = [[_mm256_setzero_si256(); 2]; MR];
                // SAFETY: the panels hold `steps` steps of `MR` and 16 words.
                unsafe {
                    for _ in 0..pairs {
                        let y = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(WIDTH).cast())];
                        for (r, integers) in integers.iter_mut().enumerate() {
                            let $x = _mm256_set1_epi32((*a.add(r)).cast_signed());
                            for (integer, $y) in integers.iter_mut().zip(y) {
                                let $sum = *integer;
                                *integer = $add;
                            }
                        }
                        a = a.add(MR);
                        b = b.add(2 * WIDTH);
                    }
                    for (r, (sums, integers)) in sums.iter_mut().zip(&integers).enumerate() {
                        let x = _mm256_broadcast_ss(&*a.add(r).cast());
                        for (v, (sum, &integer)) in sums.iter_mut().zip(integers).enumerate() {
                            let y = _mm256_loadu_ps(b.add(WIDTH * v).cast());
                            *sum = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(integer), y), x, *sum);
                        }
                    }
                    a = a.add(MR);
                    b = b.add(2 * WIDTH);
                }
            }
            // SAFETY: the caller guarantees this.
            unsafe { store(sums, &work) };
        }
    };
}
body!(pairs, "avx2,fma", sum, x, y => _mm256_add_epi32(sum, _mm256_madd_epi16(x, y)));
body!(fused, "avx2,fma,avxvnni", sum, x, y => _mm256_dpwssd_avx_epi32(sum, x, y));

/// Returns `|x|` as bits, which order as integers like the numbers do, with NaN above all.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn magnitude(x: __m256) -> __m256i {
    _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fff_ffff))
}

/// Returns scales and their inverses as `fixed::scales` does.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn scales(greatest: __m256i, integer: f32) -> (__m256, __m256) {
    let greatest = _mm256_castsi256_ps(greatest);
    let live = _mm256_cmp_ps::<_CMP_NLT_UQ>(greatest, _mm256_set1_ps(TINY));
    (
        _mm256_and_ps(live, _mm256_mul_ps(greatest, _mm256_set1_ps(1.0 / integer))),
        _mm256_and_ps(live, _mm256_div_ps(_mm256_set1_ps(integer), greatest)),
    )
}
