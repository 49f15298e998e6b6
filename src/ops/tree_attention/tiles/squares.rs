//! Elementwise work on squares of scores, in AVX-512: from sums to weights, which are rounded and written as panels in the
//! same pass.

use std::arch::x86_64::*;

use crate::ops::gemm::panels::{Chunk, SIDE, Square, Tiler};

/// Words of a lane in a chunk.
const LANE: usize = SIDE / 2;

/// Replaces the visible scores of a row by its weights `exp(s − max)`, as lane `row` of the left panel `to`, and returns
/// (max, Σ). `seen[i]` has a bit for each visible column of `scores[i]`; weights of the others are zero.
///
/// # Panics
/// Panics if the lengths differ or there are fewer rows.
pub(super) fn softmax(
    _: &Tiler,
    scores: &[Square],
    row: usize,
    seen: &[u32],
    to: &mut [Chunk],
) -> (f32, f32) {
    assert!(row < SIDE && scores.len() == seen.len() && to.len() == seen.len(), "panels of a softmax");
    // SAFETY: there is a `Tiler`, so the processor has AMX, and with it these sets (`Isa::present`).
    unsafe { softmax_row(scores, row, seen, to) }
}

/// # Safety
/// The lengths must agree, `row` must be less than [`SIDE`], and the processor must have the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,fma")]
unsafe fn softmax_row(scores: &[Square], row: usize, seen: &[u32], to: &mut [Chunk]) -> (f32, f32) {
    let low = f32::NEG_INFINITY;
    let mut most = [_mm512_set1_ps(low); 2];
    for (scores, seen) in scores.iter().zip(seen) {
        for (most, (x, mask)) in most.iter_mut().zip(halves(scores, row, *seen)) {
            *most = _mm512_mask_max_ps(*most, mask, *most, x);
        }
    }
    let max = _mm512_reduce_max_ps(_mm512_max_ps(most[0], most[1]));
    // If every score is −∞, any finite shift gives a row of zeros.
    let shift = _mm512_set1_ps(if max == low { 0.0 } else { max });
    let mut sums = [_mm512_setzero_ps(); 2];
    for ((scores, seen), to) in scores.iter().zip(seen).zip(to) {
        let weights = halves(scores, row, *seen).map(|(x, mask)| exp(mask, _mm512_sub_ps(x, shift)));
        sums = [_mm512_add_ps(sums[0], weights[0]), _mm512_add_ps(sums[1], weights[1])];
        // SAFETY: the lane's words are inside the chunk.
        unsafe { store(weights, to, row) };
    }
    (max, _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])))
}

/// What the weights of 32 queries are computed from.
pub(super) struct Queries<'a> {
    /// Log-sum-exp of each query.
    pub(super) lse: &'a [f32; SIDE],
    /// `Σ do·o` of each query.
    pub(super) delta: &'a [f32; SIDE],
}

/// Where the weights `p` of 32 keys and queries are written, and the gradients `ds` of their scores: as left panels whose
/// lanes are keys, and as a right panel whose lanes are queries.
pub(super) struct Weights<'a> {
    pub(super) p: &'a mut Chunk,
    pub(super) ds: &'a mut Chunk,
    pub(super) ds_by_query: &'a mut Chunk,
}

/// Computes `p = exp(s − lse)` and `ds = p∘(dp − delta)` for keys as rows and queries as columns. `seen[i]` has a bit for
/// each query that sees key `i`.
pub(super) fn weights(
    _: &Tiler,
    s: &Square,
    dp: &Square,
    queries: &Queries,
    seen: &[u32; SIDE],
    to: Weights,
) {
    // SAFETY: there is a `Tiler`, so the processor has AMX, and with it these sets (`Isa::present`).
    unsafe { weights_of(s, dp, queries, seen, to) }
}

/// # Safety
/// The processor must have the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,fma")]
unsafe fn weights_of(s: &Square, dp: &Square, queries: &Queries, seen: &[u32; SIDE], to: Weights) {
    // SAFETY: both halves of 32 numbers are loaded.
    let both = |x: &[f32; SIDE]| [0, 16].map(|at: usize| unsafe { _mm512_loadu_ps(x[at..].as_ptr()) });
    let (lse, delta) = (both(queries.lse), both(queries.delta));
    for pair in 0..SIDE / 2 {
        let mut lines = [_mm512_setzero_si512(); 2];
        for (line, key) in lines.iter_mut().zip(2 * pair..) {
            let (s, dp) = (halves(s, key, seen[key]), halves(dp, key, seen[key]));
            let p: [_; 2] = std::array::from_fn(|i| exp(s[i].1, _mm512_sub_ps(s[i].0, lse[i])));
            // Masked: what is not seen may be anything.
            let ds: [_; 2] =
                std::array::from_fn(|i| _mm512_maskz_mul_ps(s[i].1, p[i], _mm512_sub_ps(dp[i].0, delta[i])));
            *line = rounded(ds);
            // SAFETY: the lanes' words are inside the chunks.
            unsafe {
                store(p, to.p, key);
                _mm512_store_si512(to.ds.0[key * LANE..].as_mut_ptr().cast(), *line);
            }
        }
        // A word holds two keys of a query.
        let (even, odd) = (lines[0], lines[1]);
        let low = |x| _mm512_cvtepu16_epi32(_mm512_castsi512_si256(x));
        let high = |x| _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(x));
        let words = [
            _mm512_or_si512(low(even), _mm512_slli_epi32::<16>(low(odd))),
            _mm512_or_si512(high(even), _mm512_slli_epi32::<16>(high(odd))),
        ];
        for (words, at) in words.into_iter().zip([0, 16]) {
            // SAFETY: the pair's 32 words are inside the chunk.
            unsafe { _mm512_store_si512(to.ds_by_query.0[pair * SIDE + at..].as_mut_ptr().cast(), words) };
        }
    }
}

/// Returns both halves of a row, each with the mask of its visible columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(square: &Square, row: usize, seen: u32) -> [(__m512, __mmask16); 2] {
    let line = square.row(row);
    // SAFETY: the row has 32 numbers.
    [0, 16].map(|at: usize| (unsafe { _mm512_loadu_ps(line[at..].as_ptr()) }, (seen >> at) as __mmask16))
}

/// Rounds 32 numbers to bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded([low, high]: [__m512; 2]) -> __m512i {
    // SAFETY: both types are 512 bits and have no invalid values.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Writes a lane of a left panel.
///
/// # Safety
/// `lane` must be less than [`SIDE`].
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn store(numbers: [__m512; 2], to: &mut Chunk, lane: usize) {
    // SAFETY: the caller guarantees that the lane's 16 words are inside the chunk, which begins at a cache line.
    unsafe { _mm512_store_si512(to.0[lane * LANE..].as_mut_ptr().cast(), rounded(numbers)) };
}

/// Returns eˣ where `mask` is set, and zero elsewhere. The arithmetic is that of [`exp`](crate::ops::simd::exp).
#[inline]
#[target_feature(enable = "avx512f")]
fn exp(mask: __mmask16, x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let lowest = _mm512_set1_ps(-87.3);
    let live = _mm512_mask_cmp_ps_mask::<_CMP_NLT_UQ>(mask, x, lowest);
    // The second operand is returned if one is NaN.
    let clamped = _mm512_min_ps(_mm512_set1_ps(88.3), x);
    let n = _mm512_roundscale_ps::<NEAREST>(_mm512_mul_ps(clamped, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693_359_4), clamped);
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.121_944_4e-4), r);
    let mut p = _mm512_set1_ps(1.987_569_1e-4);
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    let p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0));
    _mm512_maskz_scalef_ps(live, p, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::noise_of;

    fn bf16_of(chunk: &Chunk, lane: usize, k: usize) -> f32 {
        let word = chunk.0[lane * LANE + k / 2];
        f32::from_bits(if k.is_multiple_of(2) { word << 16 } else { word & 0xffff_0000 })
    }

    #[test]
    fn weights_of_rows_are_a_masked_softmax() {
        let Some(tiler) = Tiler::new() else { return };
        let scores: Vec<Square> =
            (0..3).map(|i| Square(noise_of(SIDE * SIDE, i).try_into().unwrap())).collect();
        let seen = [u32::MAX << 5, u32::MAX, 0b1011];
        let mut to = [Chunk([7; 512]); 3];
        let (max, total) = softmax(&tiler, &scores, 9, &seen, &mut to);
        let at = |i: usize| scores[i / SIDE].row(9)[i % SIDE];
        let visible = |i: usize| seen[i / SIDE] >> (i % SIDE) & 1 == 1;
        let want = (0..96).filter(|i| visible(*i)).map(at).fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(max, want);
        let weight = |i: usize| if visible(i) { f64::from(at(i) - max).exp() } else { 0.0 };
        assert!(((0..96).map(weight).sum::<f64>() / f64::from(total) - 1.0).abs() < 1e-6);
        for i in 0..96 {
            let got = f64::from(bf16_of(&to[i / SIDE], 9, i % SIDE));
            assert!(
                (got - weight(i)).abs() <= weight(i) * 2f64.powi(-8),
                "[{i}] {got} against {}",
                weight(i)
            );
        }
    }

    #[test]
    fn exp_of_the_ends_and_of_nan() {
        let Some(tiler) = Tiler::new() else { return };
        let mut square = Square::ZERO;
        square.0[..5].copy_from_slice(&[f32::NEG_INFINITY, -100.0, 0.0, -87.0, -1.0]);
        let mut to = [Chunk::ZERO];
        let (max, total) = softmax(&tiler, &[square], 0, &[0b11111], &mut to);
        assert!(max == 0.0 && (f64::from(total) - 1.0 - (-1f64).exp()).abs() < 1e-6);
        square.0[3] = f32::NAN;
        assert!(softmax(&tiler, &[square], 0, &[0b11111], &mut to).1.is_nan());
    }
}
