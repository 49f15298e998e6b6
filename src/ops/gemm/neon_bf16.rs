//! Micro-kernels of Arm's bf16 matrix instruction (BFMMLA, Armv8.6), which multiplies two rows by two columns over four
//! elements of `k`. An 8×12 tile keeps 24 accumulators, four vectors of `A`, and of `B` one pair at a time.
//!
//! The instruction rounds to odd and flushes denormals between its products, for each element of the result alone, so the
//! number of rows or columns of a tile does not affect the bits of any element.

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::{Blocks, store_blocks};
use super::tile::{Part, Tile, Work};

/// Returns the rows and columns of the tile for `m` rows of `A`, and its kernel.
pub(super) fn tile(m: usize) -> (usize, usize, Tile) {
    match m {
        0..=2 => (2, 12, body::<1>),
        3..=4 => (4, 12, body::<2>),
        _ => (8, 12, body::<4>),
    }
}

/// # Safety
/// Same as `Kernel::run`; the processor must have bf16, and the steps must be even.
#[target_feature(enable = "neon,bf16")]
unsafe fn body<const PAIRS: usize>(work: Work) {
    let Part { steps, mut a, mut b } = work.parts[0];
    let mut sums: Blocks<PAIRS> = [[vdupq_n_f32(0.0); 6]; PAIRS];
    for _ in 0..steps / 2 {
        // SAFETY: the panels hold `steps / 2` times two words of `2·PAIRS` and 12 lanes.
        unsafe {
            let x: [uint32x4_t; PAIRS] = std::array::from_fn(|pair| vld1q_u32(a.add(4 * pair)));
            for column in 0..6 {
                let y = vld1q_u32(b.add(4 * column));
                for (sums, x) in sums.iter_mut().zip(x) {
                    sums[column] = multiply(sums[column], x, y);
                }
            }
            a = a.add(4 * PAIRS);
            b = b.add(24);
        }
    }
    // SAFETY: the caller guarantees this.
    unsafe { store_blocks(&sums, &work) };
}

/// Adds the product of two rows and two columns of four bf16 each. The intrinsic is not stable.
#[inline]
#[target_feature(enable = "neon,bf16")]
fn multiply(sum: float32x4_t, x: uint32x4_t, y: uint32x4_t) -> float32x4_t {
    let mut sum = sum;
    // SAFETY: the instruction reads and writes only these registers, and the function's features include it.
    unsafe {
        asm!(
            "bfmmla {sum:v}.4s, {x:v}.8h, {y:v}.8h",
            sum = inout(vreg) sum, x = in(vreg) x, y = in(vreg) y,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
