//! Packing of fixed point as two digits of eight bits, for Arm's 8-bit matrix instruction. The integers and scales are
//! those of numbers on AVX-512 VNNI: in each lane, [`CHUNK`] neighbours in `k` become integers of at most 5792 times one f32 scale.
//!
//! For each eight neighbours in `k`, the high digits of all lanes follow each other, each with two words, and then the low
//! digits. A step with the lanes' scales ends a chunk.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::operand::{Operand, load};
use super::tile::CHUNK;
use crate::weights::Elements;

/// Elements of `k` that one instruction multiplies.
pub(super) const OCTET: usize = 8;

/// The greatest integer. The sum of a chunk fits an i32, as 64·5792² < 2³¹.
const GREATEST: f32 = 5792.0;

/// A chunk whose greatest number is below this (2⁻¹⁰⁰) counts as zeros, as the inverse of its scale may not be finite.
const TINY: f32 = f32::from_bits((127 - 100) << 23);

/// Like `pack::panel`, for an operand of the numbers `x` that is contiguous along `k` or along its lanes.
pub(super) fn panel(
    x: &[f32],
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    let lanes = width.min(from.lanes - first);
    let mut rest = to;
    for start in k.clone().step_by(CHUNK) {
        let length = CHUNK.min(k.end - start);
        let octets = length.div_ceil(OCTET);
        let (words, after) = std::mem::take(&mut rest).split_at_mut(octets * 4 * width);
        let (scales, after) = after.split_at_mut(width);
        rest = after;
        for (lane, scale) in scales.iter_mut().enumerate() {
            let mut numbers = [0f32; CHUNK];
            if lane < lanes {
                gather(x, from, first + lane, start, &mut numbers[..length]);
            }
            let (digits, of_chunk) = cut(&numbers);
            scale.write(of_chunk.to_bits());
            for (octet, words) in words.chunks_exact_mut(4 * width).enumerate() {
                for (digit, digits) in digits.iter().enumerate() {
                    let bytes = &digits[octet * OCTET..][..OCTET];
                    for (word, bytes) in
                        words[2 * (digit * width + lane)..].iter_mut().zip(bytes.chunks_exact(4))
                    {
                        word.write(u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[i] as u8)));
                    }
                }
            }
        }
    }
}

/// Reads numbers of a lane from `start` on.
fn gather(x: &[f32], from: &Operand, lane: usize, start: usize, to: &mut [f32]) {
    if from.k_stride == 1 {
        let at = lane * from.lane_stride + start;
        to.copy_from_slice(&x[at..at + to.len()]);
        return;
    }
    let operand = Operand { data: Elements::F32(x), ..*from };
    to.iter_mut().enumerate().for_each(|(i, to)| *to = load(&operand, lane, start + i));
}

/// Returns the high and low digits of a chunk and its scale. An infinity or a NaN makes the scale infinite or NaN, and with
/// it everything the chunk is multiplied into.
fn cut(numbers: &[f32; CHUNK]) -> ([[i8; CHUNK]; 2], f32) {
    // Bits order as integers like the magnitudes do, with NaN above all.
    let greatest = numbers.iter().fold(0, |greatest, x| greatest.max(x.to_bits() & 0x7fff_ffff));
    let greatest = f32::from_bits(greatest);
    let mut digits = [[0; CHUNK]; 2];
    if greatest < TINY {
        return (digits, 0.0);
    }
    let (scale, inverse) = (greatest * (1.0 / GREATEST), GREATEST / greatest);
    let [high, low] = &mut digits;
    for ((x, high), low) in numbers.iter().zip(high).zip(low) {
        let integer = (x * inverse).round_ties_even() as i32;
        // |integer| ≤ 5792 (one more if the inverse was rounded up), so both digits fit.
        let above = (integer + 64) >> 7;
        *high = above as i8;
        *low = (integer - (above << 7)) as i8;
    }
    (digits, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_the_rounded_numbers() {
        let mut numbers = [0f32; CHUNK];
        for (i, x) in numbers.iter_mut().enumerate() {
            *x = (i as f32 * 0.37).sin() * 3.0;
        }
        numbers[9] = -3.25;
        let ([high, low], scale) = cut(&numbers);
        assert_eq!(scale, 3.25 * (1.0 / 5792.0));
        for ((x, high), low) in numbers.iter().zip(high).zip(low) {
            let integer = 128 * i32::from(high) + i32::from(low);
            assert!(
                integer.abs() <= 5792 && (f64::from(*x) / f64::from(scale) - f64::from(integer)).abs() < 0.51
            );
        }
        numbers[3] = f32::NAN;
        assert!(cut(&numbers).1.is_nan());
        numbers[3] = f32::NEG_INFINITY;
        assert_eq!(cut(&numbers).1, f32::INFINITY);
        assert_eq!(cut(&[1e-36; CHUNK]), ([[0; CHUNK]; 2], 0.0));
    }
}
