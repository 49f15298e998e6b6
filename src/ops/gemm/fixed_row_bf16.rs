//! One row times bf16 weights in fixed point with AVX2, for eight outputs at a time: the integers of a chunk are made in
//! registers and multiplied at once. The bits are those of `fixed`.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::avx512_pack::prefetch;
use super::fixed_pack_avx2::{LANES, Numbers, scales_of};
use super::fixed_row_avx2::{folded, store, vectors};
use super::operand::Operand;
use super::packed::Packed;
use super::tile::CHUNK;

/// Computes the outputs `lanes`.
///
/// # Safety
/// Same as `one_row::run`, for these outputs.
pub(super) unsafe fn group(
    weights: &[bf16],
    a: &Packed,
    b: &Operand,
    lanes: Range<usize>,
    out: *mut f32,
    accumulate: bool,
) {
    for (part, first) in lanes.clone().step_by(LANES).enumerate() {
        let count = (lanes.end - first).min(LANES);
        // Rows that are missing are read as the last one, and their sums are not stored.
        let starts = std::array::from_fn(|lane| {
            weights[(first + lane.min(count - 1)) * b.lane_stride..].as_ptr().cast()
        });
        for block in 0..a.cut.blocks() {
            let (k, panel) = (a.cut.k_range(block), a.panel(block, 0));
            // SAFETY: fixed-point words are selected only where the processor has AVX2 and FMA here; `Operand::strided`
            // checked that the rows are inside the weight, and the caller vouches for the outputs.
            unsafe {
                let sums = sums(&starts, LANES * b.lane_stride, k, panel);
                store(sums, out.wrapping_add(part * LANES), count, accumulate || block > 0);
            }
        }
    }
}

/// Computes eight outputs over a block of `k`. The rows of the next outputs are `ahead` numbers further.
///
/// # Safety
/// The rows must have the numbers `k`, and the processor must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn sums(rows: &[*const u16; LANES], ahead: usize, k: Range<usize>, panel: &[u32]) -> __m256 {
    let mut last = [[0u16; CHUNK]; LANES];
    let mut sums = _mm256_setzero_ps();
    let mut words = panel;
    for start in k.clone().step_by(CHUNK) {
        let length = (k.end - start).min(CHUNK);
        let (pairs, rest) = words.split_at(length.div_ceil(2));
        let (a, of_a) = (vectors(pairs), f32::from_bits(rest[0]));
        words = &rest[1..];
        let mut chunks = rows.map(|row| row.wrapping_add(start));
        if length < CHUNK {
            for (chunk, last) in chunks.iter_mut().zip(&mut last) {
                // SAFETY: the caller guarantees this.
                unsafe { std::ptr::copy_nonoverlapping(*chunk, last.as_mut_ptr(), length) };
                *chunk = last.as_ptr();
            }
        }
        let next = rows.map(|row| row.wrapping_add(start + ahead));
        // Lines are asked for one at a time between other work: a processor waits for only so many at once.
        let greatest = std::array::from_fn(|lane| {
            prefetch(next[lane]);
            // SAFETY: the chunk is whole.
            unsafe { u16::greatest(chunks[lane]) }
        });
        let (scales, inverses) = scales_of(greatest);
        let totals = std::array::from_fn(|lane| {
            prefetch(next[lane].wrapping_add(CHUNK / 2));
            // SAFETY: as above.
            let integers = unsafe { u16::integers(chunks[lane], _mm256_set1_ps(inverses[lane])) };
            let [first, second, third, fourth] =
                std::array::from_fn(|i| _mm256_madd_epi16(a[i], integers[i]));
            _mm256_add_epi32(_mm256_add_epi32(first, second), _mm256_add_epi32(third, fourth))
        });
        let total = _mm256_cvtepi32_ps(folded(totals));
        sums = _mm256_fmadd_ps(_mm256_mul_ps(total, scales), _mm256_set1_ps(of_a), sums);
    }
    sums
}
