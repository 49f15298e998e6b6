//! Blocks of 32 numbers that have one scale, or a scale and a minimum (`quantize_row_*_ref` of `ggml-quants.c`).
//!
//! | type | bytes | layout | number |
//! |---|---|---|---|
//! | Q4_0 | 18 | scale d, 16 × nibbles | (q − 8)·d |
//! | Q4_1 | 20 | d, minimum m, nibbles | q·d + m |
//! | Q5_0 | 22 | d, 32 fifth bits, nibbles | (q − 16)·d |
//! | Q5_1 | 24 | d, m, fifth bits, nibbles | q·d + m |
//! | Q8_0 | 34 | d, 32 × i8 | q·d |
//!
//! d and m are halves. The codes are computed with the scale before it is rounded to a half.

use super::packing::{put_fifth_bits, put_half, put_nibbles};
use super::rounding::{extreme, inverse, nearest};

const BLOCK: usize = 32;
type Numbers = [f32; BLOCK];

/// Encodes with 4 bits and one scale.
pub fn q4_0(x: &Numbers, block: &mut [u8; 18]) {
    let (scale, codes) = signed(x, 8);
    put_half(scale, &mut block[..2]);
    put_nibbles(&codes, &mut block[2..]);
}

/// Encodes with 4 bits, a scale and a minimum.
pub fn q4_1(x: &Numbers, block: &mut [u8; 20]) {
    let (scale, minimum, codes) = ranged(x, 15);
    put_half(scale, &mut block[..2]);
    put_half(minimum, &mut block[2..4]);
    put_nibbles(&codes, &mut block[4..]);
}

/// Encodes with 5 bits and one scale.
pub fn q5_0(x: &Numbers, block: &mut [u8; 22]) {
    let (scale, codes) = signed(x, 16);
    put_half(scale, &mut block[..2]);
    put_fifth_bits(&codes, &mut block[2..6]);
    put_nibbles(&codes, &mut block[6..]);
}

/// Encodes with 5 bits, a scale and a minimum.
pub fn q5_1(x: &Numbers, block: &mut [u8; 24]) {
    let (scale, minimum, codes) = ranged(x, 31);
    put_half(scale, &mut block[..2]);
    put_half(minimum, &mut block[2..4]);
    put_fifth_bits(&codes, &mut block[4..8]);
    put_nibbles(&codes, &mut block[8..]);
}

/// Encodes with 8 bits and one scale; the largest magnitude becomes ±127.
pub fn q8_0(x: &Numbers, block: &mut [u8; 34]) {
    let scale = x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
    let inverse = inverse(scale);
    put_half(scale, &mut block[..2]);
    for (code, x) in block[2..].iter_mut().zip(x) {
        *code = (nearest(x * inverse).clamp(-128, 127) as i8).cast_unsigned();
    }
}

/// Returns the scale and the codes. The number of largest magnitude becomes `-zero` steps, stored as the code 0; the
/// code `zero` represents 0.
#[inline(always)]
fn signed(x: &Numbers, zero: u8) -> (f32, [u8; BLOCK]) {
    let scale = extreme(x) / -f32::from(zero);
    let inverse = inverse(scale);
    let middle = f32::from(zero) + 0.5;
    (scale, x.map(|x| ((x * inverse + middle) as u8).min(2 * zero - 1)))
}

/// Returns the scale, the minimum, and the codes: `0..=levels` from the minimum to the maximum.
#[inline(always)]
fn ranged(x: &Numbers, levels: u8) -> (f32, f32, [u8; BLOCK]) {
    let minimum = x.iter().fold(f32::INFINITY, |least, x| x.min(least));
    let maximum = x.iter().fold(f32::NEG_INFINITY, |most, x| x.max(most));
    let scale = (maximum - minimum) / f32::from(levels);
    let inverse = inverse(scale);
    (scale, minimum, x.map(|x| (((x - minimum) * inverse + 0.5) as u8).min(levels)))
}
