//! One row times bf16 weights in fixed point with AVX2: the integers of a chunk are made in registers and multiplied at once. Each
//! output is one row of the weight, whose chunks get their scales together. The bits are those of `fixed`.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::fixed_chunk::FOUR;
use super::fixed_pack_avx2::{LANES, Numbers, VECTORS, scales_of};
use super::fixed_row::folded;
use super::operand::Operand;
use super::row_chunks::{Output, Pairs};
use super::tile::CHUNK;

/// Chunks that get their scales together.
const EIGHT: usize = 2 * FOUR;

/// Computes the outputs `lanes`.
///
/// # Safety
/// Same as `one_row::run`, for these outputs.
pub(super) unsafe fn group(
    weights: &[bf16],
    chunks: &[Pairs],
    b: &Operand,
    lanes: Range<usize>,
    out: *mut f32,
    accumulate: bool,
) {
    // SAFETY: fixed-point words are selected only where the processor has AVX2 and FMA here; the caller vouches for the outputs.
    unsafe { outputs(weights.reinterpret_cast(), chunks, b, lanes, out, accumulate) }
}

/// # Safety
/// `out` must have room for the outputs, and the processor must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn outputs(
    weights: &[u16],
    chunks: &[Pairs],
    b: &Operand,
    lanes: Range<usize>,
    out: *mut f32,
    accumulate: bool,
) {
    for (lane, row) in lanes.enumerate() {
        let mut row = &weights[row * b.lane_stride..][..b.k];
        // SAFETY: there is room for the output.
        let mut output = unsafe { Output::new(out.add(lane), accumulate) };
        for chunks in chunks.chunks(EIGHT) {
            let (numbers, rest) = row.split_at(row.len().min(EIGHT * CHUNK));
            row = rest;
            output.add(&products(numbers, chunks), chunks);
        }
    }
}

/// The products of up to eight chunks of a row.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn products(row: &[u16], chunks: &[Pairs]) -> [f32; EIGHT] {
    // A last chunk that is not whole is filled up with zeros.
    let (whole, rest) = row.as_chunks::<CHUNK>();
    let mut last = [0u16; CHUNK];
    last[..rest.len()].copy_from_slice(rest);
    let numbers = |chunk: usize| whole.get(chunk).unwrap_or(&last).as_ptr();
    let zero = _mm256_setzero_si256();
    let greatest = |chunk: usize| {
        // SAFETY: the chunk is whole.
        if chunk < chunks.len() { unsafe { u16::greatest(numbers(chunk)) } } else { zero }
    };
    let (scales, inverses) = scales_of(std::array::from_fn(greatest));
    let of_chunk = |chunk: usize| {
        let Some(pairs) = chunks.get(chunk) else { return zero };
        // SAFETY: as above, and so are its pairs.
        let [first, second, third, fourth]: [__m256i; VECTORS] = unsafe {
            let integers = u16::integers(numbers(chunk), _mm256_set1_ps(inverses[chunk]));
            std::array::from_fn(|i| {
                let a = _mm256_loadu_si256(pairs.words.as_ptr().wrapping_add(i * LANES).cast());
                _mm256_madd_epi16(a, integers[i])
            })
        };
        _mm256_add_epi32(_mm256_add_epi32(first, second), _mm256_add_epi32(third, fourth))
    };
    let four = |at: usize| folded([of_chunk(at), of_chunk(at + 1), of_chunk(at + 2), of_chunk(at + 3)]);
    let sums = _mm256_set_m128i(four(FOUR), four(0));
    let mut products = [0f32; EIGHT];
    // SAFETY: the array is one vector.
    unsafe { _mm256_storeu_ps(products.as_mut_ptr(), _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scales)) };
    products
}
