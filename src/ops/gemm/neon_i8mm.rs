//! Products of fixed point with Arm's 8-bit matrix instruction (SMMLA, Armv8.6), which multiplies two rows by two columns
//! over eight elements of `k`.
//!
//! The numbers and their scales are those of [`digits`](super::digits): an integer is `128·high + low` with digits of eight
//! bits. Its products are summed exactly in three i32, `high·high`, `high·low + low·high` and `low·low`, which make one i32
//! at the end of a chunk. That sum times both scales is added to the f32 sums of the tile, so the bits are those of the
//! 16-bit instructions of AVX-512 VNNI. Four instructions multiply 32 pairs of numbers, eight times as many as four f32
//! instructions on half the registers; dot products (SDOT) would take sixteen, as many as f32.

use std::arch::aarch64::*;
use std::arch::asm;

use super::digits::OCTET;
use super::neon::{Blocks, store_blocks};
use super::tile::{CHUNK, Part, Tile, Work};

/// Returns the rows and columns of the tile for `m` rows of `A`, and its kernel.
pub(super) fn tile(m: usize) -> (usize, usize, Tile) {
    match m {
        0..=4 => (4, 12, body::<2>),
        _ => (8, 12, body::<4>),
    }
}

/// Columns of a tile.
const NR: usize = 12;

/// Steps of eight elements of `k`: two words of each digit.
const STEPS: usize = 4;

/// # Safety
/// Same as `Kernel::run`; the processor must have i8mm.
#[target_feature(enable = "neon,i8mm")]
unsafe fn body<const PAIRS: usize>(work: Work) {
    let Part { steps, mut a, mut b } = work.parts[0];
    let mut sums: Blocks<PAIRS> = [[vdupq_n_f32(0.0); 6]; PAIRS];
    let mut left = steps;
    while left > 0 {
        // The octets of a chunk, then the step with its scales.
        let octets = (left / STEPS).min(CHUNK / OCTET);
        left -= octets * STEPS + 1;
        // SAFETY: the panels hold `steps` steps of `2·PAIRS` and 12 words.
        unsafe {
            let (of_a, of_b) = (a.add(octets * STEPS * 2 * PAIRS), b.add(octets * STEPS * NR));
            for rows in (0..PAIRS).step_by(2) {
                for columns in (0..NR / 2).step_by(2) {
                    let totals = chunk(octets, (a.add(4 * rows), 2 * PAIRS), (b.add(4 * columns), NR));
                    for (i, totals) in totals.into_iter().enumerate() {
                        let x = vld1_f32(of_a.add(2 * (rows + i)).cast());
                        let x = vcombine_f32(vdup_lane_f32::<0>(x), vdup_lane_f32::<1>(x));
                        for (j, total) in totals.into_iter().enumerate() {
                            let y = vld1_f32(of_b.add(2 * (columns + j)).cast());
                            let scaled = vmulq_f32(vcvtq_f32_s32(total), vcombine_f32(y, y));
                            let sum = &mut sums[rows + i][columns + j];
                            *sum = vfmaq_f32(*sum, scaled, x);
                        }
                    }
                }
            }
            (a, b) = (of_a.add(2 * PAIRS), of_b.add(NR));
        }
    }
    // SAFETY: the caller guarantees this.
    unsafe { store_blocks(&sums, &work) };
}

/// Returns the exact sums of a chunk for four rows and four columns, as blocks of two by two. An operand is given by its
/// first word and the lanes of its panel.
///
/// # Safety
/// Both must hold `octets` times two words of each digit.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn chunk(octets: usize, a: (*const u32, usize), b: (*const u32, usize)) -> [[int32x4_t; 2]; 2] {
    let zero = [[vdupq_n_s32(0); 2]; 2];
    let (mut high, mut middle, mut low) = (zero, zero, zero);
    for octet in 0..octets {
        let digits = |(from, lanes): (*const u32, usize), digit: usize| {
            let from = from.wrapping_add((STEPS * octet + 2 * digit) * lanes);
            // SAFETY: the caller guarantees this.
            [0, 4].map(|pair| unsafe { vld1q_u32(from.wrapping_add(pair)) })
        };
        let (x, x_low, y, y_low) = (digits(a, 0), digits(a, 1), digits(b, 0), digits(b, 1));
        for i in 0..2 {
            for j in 0..2 {
                high[i][j] = multiply(high[i][j], x[i], y[j]);
                middle[i][j] = multiply(middle[i][j], x[i], y_low[j]);
                middle[i][j] = multiply(middle[i][j], x_low[i], y[j]);
                low[i][j] = multiply(low[i][j], x_low[i], y_low[j]);
            }
        }
    }
    let mut totals = zero;
    for i in 0..2 {
        for j in 0..2 {
            // (high·2⁷ + middle)·2⁷ + low
            let upper = vaddq_s32(vshlq_n_s32::<7>(high[i][j]), middle[i][j]);
            totals[i][j] = vaddq_s32(vshlq_n_s32::<7>(upper), low[i][j]);
        }
    }
    totals
}

/// Adds the product of two rows and two columns of eight integers each. The intrinsic is not stable.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn multiply(sum: int32x4_t, x: uint32x4_t, y: uint32x4_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: the instruction reads and writes only these registers, and the function's features include it.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {x:v}.16b, {y:v}.16b",
            sum = inout(vreg) sum, x = in(vreg) x, y = in(vreg) y,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
