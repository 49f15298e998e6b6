//! Products of 16-bit fixed point with AVX2: the numbers, scales and sums are those of `fixed`, and so are the bits. Two instructions
//! multiply and add 16 pairs, at twice the rate of f32 on a Zen 4.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx2::store;
use super::avx512_pack::Strip;
use super::fixed::{GREATEST, TINY};
use super::operand::Operand;
use super::tile::{CHUNK, Part, Tile, Work};

/// Numbers of a vector.
const WIDTH: usize = 8;

/// Vectors of a chunk.
const VECTORS: usize = CHUNK / WIDTH;

/// Returns the kernel of a tile of `mr` (1 or 6) rows and 16 columns.
pub(super) fn tile(mr: usize) -> Tile {
    if mr == 1 { body::<1> } else { body::<6> }
}

/// # Safety
/// Same as `Kernel::run`; the processor must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn body<const MR: usize>(work: Work) {
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
                    let x = _mm256_set1_epi32((*a.add(r)).cast_signed());
                    for (integer, y) in integers.iter_mut().zip(y) {
                        *integer = _mm256_add_epi32(*integer, _mm256_madd_epi16(x, y));
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
    unsafe { store(&sums, &work) };
}

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
    // SAFETY: fixed-point words are selected only where the processor has AVX2 here.
    unsafe { if from.k_stride == 1 { rows(&strip, &x[at..], to) } else { columns(&strip, &x[at..], to) } }
}

/// Packs lanes that are far apart, with `k` contiguous.
///
/// # Safety
/// The processor must have AVX2.
#[target_feature(enable = "avx2")]
unsafe fn rows(strip: &Strip, from: &[f32], to: &mut [MaybeUninit<u32>]) {
    let width = strip.width;
    for lane in 0..width {
        let mut rest = &mut to[lane..];
        for start in (0..strip.k).step_by(CHUNK) {
            let length = (strip.k - start).min(CHUNK);
            let mut numbers = [0f32; CHUNK];
            if lane < strip.lanes {
                numbers[..length].copy_from_slice(&from[lane * strip.lane_stride + start..][..length]);
            }
            // SAFETY: the array has as many vectors.
            let x: [__m256; VECTORS] =
                std::array::from_fn(|i| unsafe { _mm256_loadu_ps(numbers[WIDTH * i..].as_ptr()) });
            let greatest =
                x.iter().fold(_mm256_setzero_si256(), |most, x| _mm256_max_epi32(most, magnitude(*x)));
            let (scale, inverse) = scales(greatest_of(greatest), GREATEST);
            let mut words = [0u32; CHUNK / 2];
            for (x, words) in x.chunks_exact(2).zip(words.chunks_exact_mut(WIDTH)) {
                let [low, high] = [x[0], x[1]].map(|x| _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse)));
                // The instruction takes quarters from both in turn.
                let mixed = _mm256_packs_epi32(low, high);
                let ordered = _mm256_permute4x64_epi64::<0b1101_1000>(mixed);
                // SAFETY: the part of the array is one vector.
                unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), ordered) };
            }
            let held = length.div_ceil(2);
            for (i, word) in words[..held].iter().enumerate() {
                rest[i * width].write(*word);
            }
            rest[held * width].write(_mm_cvtss_f32(_mm256_castps256_ps128(scale)).to_bits());
            rest = std::mem::take(&mut rest).get_mut((held + 1) * width..).unwrap_or_default();
        }
    }
}

/// The greatest of eight integers, everywhere.
#[inline]
#[target_feature(enable = "avx2")]
fn greatest_of(x: __m256i) -> __m256i {
    let x = _mm256_max_epi32(x, _mm256_permute2x128_si256::<1>(x, x));
    let x = _mm256_max_epi32(x, _mm256_shuffle_epi32::<0b0100_1110>(x));
    _mm256_max_epi32(x, _mm256_shuffle_epi32::<0b1011_0001>(x))
}

/// Packs contiguous lanes: two rows of `k` per step.
///
/// # Safety
/// Same as [`rows`].
#[target_feature(enable = "avx2")]
unsafe fn columns(strip: &Strip, from: &[f32], to: &mut [MaybeUninit<u32>]) {
    let width = strip.width;
    for lane in (0..width).step_by(WIDTH) {
        let lanes = strip.lanes.saturating_sub(lane).min(WIDTH);
        let stored = (width - lane).min(WIDTH);
        let mut rest = &mut to[lane..];
        for start in (0..strip.k).step_by(CHUNK) {
            let end = (start + CHUNK).min(strip.k);
            let row = |k: usize| {
                let mut numbers = [0f32; WIDTH];
                if k < end && lanes > 0 {
                    let line = &from[k * strip.k_stride + lane..];
                    match line.first_chunk() {
                        Some(whole) if lanes == WIDTH => numbers = *whole,
                        _ => numbers[..lanes].copy_from_slice(&line[..lanes]),
                    }
                }
                // SAFETY: the array is one vector.
                unsafe { _mm256_loadu_ps(numbers.as_ptr()) }
            };
            let mut greatest = _mm256_setzero_si256();
            for k in start..end {
                greatest = _mm256_max_epi32(greatest, magnitude(row(k)));
            }
            let (scale, inverse) = scales(greatest, GREATEST);
            let integers = |k| _mm256_cvtps_epi32(_mm256_mul_ps(row(k), inverse));
            let mut write = |words: __m256i| {
                let mut line = [0u32; WIDTH];
                match rest.first_chunk_mut::<WIDTH>() {
                    // SAFETY: the array is one vector.
                    Some(whole) if stored == WIDTH => unsafe {
                        _mm256_storeu_si256(whole.as_mut_ptr().cast(), words);
                    },
                    _ => {
                        // SAFETY: as above.
                        unsafe { _mm256_storeu_si256(line.as_mut_ptr().cast(), words) };
                        for (to, word) in rest.iter_mut().zip(&line[..stored]) {
                            to.write(*word);
                        }
                    }
                }
                rest = std::mem::take(&mut rest).get_mut(width..).unwrap_or_default();
            };
            for k in (start..end).step_by(2) {
                let odd = _mm256_slli_epi32::<16>(integers(k + 1));
                write(_mm256_blend_epi16::<0b1010_1010>(integers(k), odd));
            }
            write(_mm256_castps_si256(scale));
        }
    }
}
