//! NEON micro-kernels. An 8×12 tile keeps 24 accumulators, three vectors of `B` and two of `A` in the 32 registers. Every
//! sum is one chain of fused multiply-adds in order of `k`, whatever the tile size.

use std::arch::aarch64::*;
use std::arch::asm;

use super::tile::{Part, Tile, Work};

/// Returns the rows and columns of the tile for `m` rows of `A`, and its kernel. A single row has twice the columns, so
/// that its chains cover the latency of an addition.
pub(super) fn tile(m: usize) -> (usize, usize, Tile) {
    match m {
        0..=1 => (1, 24, row),
        2..=4 => (4, 12, body::<1, 4, false>),
        _ => (8, 12, body::<2, 8, false>),
    }
}

/// Like the kernels of [`tile`], for a right operand in place. One row has none.
pub(super) fn tile_in_place(mr: usize) -> Option<Tile> {
    match mr {
        4 => Some(body::<1, 4, true>),
        8 => Some(body::<2, 8, true>),
        _ => None,
    }
}

/// Vectors of a row of a tile.
const NV: usize = 3;

/// # Safety
/// Same as `Kernel::run`; `MR` is `4·Q`.
#[target_feature(enable = "neon")]
unsafe fn body<const Q: usize, const MR: usize, const IN_PLACE: bool>(work: Work) {
    const { assert!(MR == 4 * Q) };
    let Work { parts, c, stride, rows, columns, accumulate, place } = work;
    let Part { steps, mut a, mut b } = parts[0];
    let mut sums = [[vdupq_n_f32(0.0); NV]; MR];
    for _ in 0..steps {
        // SAFETY: the panels hold `steps` steps of `MR` and 12 words, and so does an operand in place.
        unsafe {
            let y = [vld1q_f32(b.cast()), vld1q_f32(b.add(4).cast()), vld1q_f32(b.add(8).cast())];
            for (quarter, sums) in sums.chunks_exact_mut(4).enumerate() {
                let x = vld1q_f32(a.add(4 * quarter).cast());
                for (v, y) in y.into_iter().enumerate() {
                    sums[0][v] = vfmaq_laneq_f32::<0>(sums[0][v], y, x);
                    sums[1][v] = vfmaq_laneq_f32::<1>(sums[1][v], y, x);
                    sums[2][v] = vfmaq_laneq_f32::<2>(sums[2][v], y, x);
                    sums[3][v] = vfmaq_laneq_f32::<3>(sums[3][v], y, x);
                }
            }
            a = a.add(MR);
            if IN_PLACE {
                prefetch(b.wrapping_add(place.ahead));
                b = b.wrapping_add(place.step);
            } else {
                b = b.add(4 * NV);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate().take(rows) {
        // SAFETY: the caller guarantees that the corner may be written.
        unsafe { store(sums, c.add(r * stride), columns, accumulate) };
    }
}

/// Asks for the line of this word, which is read soon.
#[inline]
fn prefetch(word: *const u32) {
    // SAFETY: a prefetch accesses nothing; addresses outside the operand are ignored.
    unsafe {
        asm!("prfm pldl2keep, [{word}]", word = in(reg) word, options(nostack, preserves_flags, readonly));
    }
}

/// # Safety
/// Same as `Kernel::run`, for one row of 24 columns.
#[target_feature(enable = "neon")]
unsafe fn row(work: Work) {
    let Work { parts, c, rows, columns, accumulate, .. } = work;
    let Part { steps, mut a, mut b } = parts[0];
    let mut sums = [vdupq_n_f32(0.0); 2 * NV];
    for _ in 0..steps {
        // SAFETY: the panels hold `steps` steps of 1 and 24 words.
        unsafe {
            let x = f32::from_bits(*a);
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = vfmaq_n_f32(*sum, vld1q_f32(b.add(4 * v).cast()), x);
            }
            a = a.add(1);
            b = b.add(8 * NV);
        }
    }
    if rows > 0 {
        // SAFETY: the caller guarantees that the corner may be written.
        unsafe { store(&sums, c, columns, accumulate) };
    }
}

/// Writes the first `columns` of a row's sums, or adds them.
///
/// # Safety
/// `to` must have room for as many numbers, which no other thread may use.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn store<const N: usize>(
    sums: &[float32x4_t; N],
    to: *mut f32,
    columns: usize,
    accumulate: bool,
) {
    for (v, &sum) in sums.iter().enumerate() {
        let held = columns.saturating_sub(4 * v).min(4);
        let to = to.wrapping_add(4 * v);
        // SAFETY: the row has `held` more numbers; `line` has four.
        unsafe {
            if held == 4 {
                vst1q_f32(to, if accumulate { vaddq_f32(vld1q_f32(to), sum) } else { sum });
                continue;
            }
            let mut line = [0f32; 4];
            vst1q_f32(line.as_mut_ptr(), sum);
            for (i, &sum) in line.iter().enumerate().take(held) {
                let to = to.add(i);
                *to = if accumulate { *to + sum } else { sum };
            }
        }
    }
}

/// Sums of two rows and two columns each, row by row in a vector, as the matrix instructions leave them.
pub(super) type Blocks<const PAIRS: usize> = [[float32x4_t; 6]; PAIRS];

/// Writes the corner of a tile of 12 columns, or adds to it.
///
/// # Safety
/// Same as `Kernel::run`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn store_blocks<const PAIRS: usize>(sums: &Blocks<PAIRS>, work: &Work) {
    for (pair, sums) in sums.iter().enumerate() {
        let halves = |which: fn(float64x2_t, float64x2_t) -> float64x2_t| -> [float32x4_t; NV] {
            std::array::from_fn(|v| {
                let (left, right) = (sums[2 * v], sums[2 * v + 1]);
                vreinterpretq_f32_f64(which(vreinterpretq_f64_f32(left), vreinterpretq_f64_f32(right)))
            })
        };
        let lines = [halves(|x, y| vzip1q_f64(x, y)), halves(|x, y| vzip2q_f64(x, y))];
        for (row, sums) in (2 * pair..work.rows).zip(&lines) {
            // SAFETY: the caller guarantees that the corner may be written.
            unsafe { store(sums, work.c.add(row * work.stride), work.columns, work.accumulate) };
        }
    }
}
