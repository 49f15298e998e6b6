//! AVX-512 micro-kernels.
//!
//! A 12×32 tile keeps 24 accumulators, two vectors of `B` and a broadcast of `A` in the 32 registers. Every sum is one
//! chain of fused multiply-adds in order of `k`, whatever the tile size.

use std::arch::x86_64::*;

use super::strip::prefetch;
use super::tile::{Part, Tile, Work};

/// Returns the kernel row count that wastes the least on `m` rows (the larger on a tie).
pub(super) fn best_rows(m: usize) -> usize {
    match m {
        1 => 1,
        2..=4 => 4,
        // With many rows, the widest tile has the fewest loads and little waste. With few, the best fit wins.
        49.. => 12,
        _ => [12, 8].into_iter().min_by_key(|mr| m.next_multiple_of(*mr)).unwrap_or(12),
    }
}

/// Selects the kernel `$body::<rows, vectors>` for a tile size.
macro_rules! of_size {
    ($body:ident, $mr:expr, $nv:expr) => {
        match ($mr, $nv) {
            (1, 1) => $body::<1, 1>,
            (4, 1) => $body::<4, 1>,
            (8, 1) => $body::<8, 1>,
            (12, 1) => $body::<12, 1>,
            (1, _) => $body::<1, 2>,
            (4, _) => $body::<4, 2>,
            (8, _) => $body::<8, 2>,
            _ => $body::<12, 2>,
        }
    };
}
pub(super) use of_size;

pub(super) fn f32_tile(mr: usize, nv: usize) -> Tile {
    of_size!(tile, mr, nv)
}

/// Like [`f32_tile`], for a right operand in place.
pub(super) fn f32_tile_in_place(mr: usize, nv: usize) -> Tile {
    of_size!(tile_in_place, mr, nv)
}

pub(super) fn bf16_tile(mr: usize, nv: usize) -> Tile {
    of_size!(tile_bf16, mr, nv)
}

/// One step of `k`: adds the product of the next word of each panel to every sum of the tile, and advances the panels.
/// The panels must hold `MR` and `16·NV` more words.
macro_rules! step {
    ($multiply:expr, $sums:ident, $a:ident, $b:ident) => {
        let mut y = [_mm512_setzero_si512(); NV];
        for (v, y) in y.iter_mut().enumerate() {
            *y = _mm512_loadu_si512($b.add(16 * v).cast());
        }
        for (r, sums) in $sums.iter_mut().enumerate() {
            let x = _mm512_set1_epi32(*$a.add(r) as i32);
            for (sum, &y) in sums.iter_mut().zip(&y) {
                *sum = $multiply(*sum, x, y);
            }
        }
        $a = $a.add(MR);
        $b = $b.add(16 * NV);
    };
}
pub(super) use step;

macro_rules! tile_body {
    ($multiply:expr, $work:ident, $in_place:literal) => {{
        let Work { parts, c, stride, rows, columns, accumulate, place } = $work;
        let Part { steps, mut a, mut b } = parts[0];
        let mut sums = [[_mm512_setzero_ps(); NV]; MR];
        for _ in 0..steps {
            // SAFETY: the panels hold `steps` steps of `MR` and `16·NV` words, and so does an operand in place.
            unsafe {
                let here = b;
                step!($multiply, sums, a, b);
                if $in_place {
                    for v in 0..NV {
                        prefetch(here.wrapping_add(place.ahead + 16 * v));
                    }
                    b = here.wrapping_add(place.step);
                }
            }
        }
        // SAFETY: the caller guarantees this.
        unsafe { store(&sums, c, stride, rows, columns, accumulate) };
    }};
}

/// Writes the corner of a tile, or adds to it.
///
/// # Safety
/// Same as `Kernel::run`; the processor must have AVX-512F.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store<const MR: usize, const NV: usize>(
    sums: &[[__m512; NV]; MR],
    c: *mut f32,
    stride: usize,
    rows: usize,
    columns: usize,
    accumulate: bool,
) {
    for (r, sums) in sums.iter().enumerate() {
        if r < rows {
            for (v, &sum) in sums.iter().enumerate() {
                let mask = mask(columns.saturating_sub(16 * v).min(16));
                // SAFETY: the access is masked to the corner that the caller lets us write.
                unsafe {
                    let to = c.add(r * stride).wrapping_add(16 * v);
                    let sum =
                        if accumulate { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum) } else { sum };
                    _mm512_mask_storeu_ps(to, mask, sum);
                }
            }
        }
    }
}

/// # Safety
/// Same as `Kernel::run`; the processor must have AVX-512F.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const MR: usize, const NV: usize>(work: Work) {
    let multiply = |sum, x, y| _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y), sum);
    tile_body!(multiply, work, false);
}

/// # Safety
/// Same as [`tile`].
#[target_feature(enable = "avx512f")]
unsafe fn tile_in_place<const MR: usize, const NV: usize>(work: Work) {
    let multiply = |sum, x, y| _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y), sum);
    tile_body!(multiply, work, true);
}

/// # Safety
/// Same as `Kernel::run`; the processor must have AVX-512F and AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_bf16<const MR: usize, const NV: usize>(work: Work) {
    let multiply = |sum, x: __m512i, y: __m512i| {
        // SAFETY: both types are 512 bits and have no invalid values.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512i, __m512bh>(x),
                std::mem::transmute::<__m512i, __m512bh>(y),
            )
        }
    };
    tile_body!(multiply, work, false);
}

/// Returns a mask of the first `count` (0 to 16) of 16 lanes.
pub(super) fn mask(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}
