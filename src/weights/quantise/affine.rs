//! Q4_K and Q5_K: super-blocks of eight sub-blocks of 32 numbers, each with a scale and a minimum
//! (`quantize_row_q4_K_impl` and `quantize_row_q5_K_impl` of `ggml-quants.c`).
//!
//! Both begin with 16 bytes: the halves d and m, then eight scales and eight minima of 6 bits in 12 bytes. A number is
//! d·scale·q − m·minimum. In Q4_K, 128 bytes of nibbles follow: 32 bytes for two sub-blocks, with the first one in the
//! low nibbles. Q5_K has 32 bytes of fifth bits before them: bit s of byte i belongs to number i of sub-block s.

use std::array::from_fn;

use super::packing::{put_half, put_nibbles, put_six_bits};
use super::rounding::nearest_level;
use super::search::{LANES, NUMBERS, SubBlocks, scale_of_scales};

const BLOCK: usize = LANES * NUMBERS;
/// The largest code of a sub-block's scale or minimum, of 6 bits.
const SCALE_LEVELS: u8 = 63;

/// Encodes a super-block with 4 bits.
pub fn q4_k(x: &[f32; BLOCK], block: &mut [u8; 144]) {
    let (head, nibbles) = block.split_at_mut(16);
    let codes = encode(x, 15, head);
    put_low_nibbles(&codes, nibbles);
}

/// Encodes a super-block with 5 bits.
pub fn q5_k(x: &[f32; BLOCK], block: &mut [u8; 176]) {
    let (head, rest) = block.split_at_mut(16);
    let (fifth, nibbles) = rest.split_at_mut(NUMBERS);
    let codes = encode(x, 31, head);
    put_low_nibbles(&codes, nibbles);
    for (i, byte) in fifth.iter_mut().enumerate() {
        *byte = (0..LANES).fold(0, |bits, s| bits | codes[s * NUMBERS + i] >> 4 << s);
    }
}

/// Stores the lower four bits of all codes.
fn put_low_nibbles(codes: &[u8; BLOCK], bytes: &mut [u8]) {
    for (two, bytes) in codes.chunks_exact(2 * NUMBERS).zip(bytes.chunks_exact_mut(NUMBERS)) {
        put_nibbles(two, bytes);
    }
}

/// Stores the scales and minima in the 16 bytes of `head`, and returns the codes, `0..=levels`.
fn encode(x: &[f32; BLOCK], levels: u8, head: &mut [u8]) -> [u8; BLOCK] {
    let sub_blocks = weighted(x);
    let (scales, minima) = sub_blocks.search(levels);
    let sums = sub_blocks.sums_of_weights();
    let (d, scales) = scale_of_scales(SCALE_LEVELS, &scales, sums);
    let (m, minima) = scale_of_scales(SCALE_LEVELS, &minima, sums);
    let (d, m) = (put_half(d, &mut head[..2]), put_half(m, &mut head[2..4]));
    put_six_bits(scales, minima, &mut head[4..]);
    let mut codes = [0; BLOCK];
    let of_sub_blocks =
        codes.chunks_exact_mut(NUMBERS).zip(x.chunks_exact(NUMBERS)).zip(scales.iter().zip(minima));
    for ((codes, x), (scale, minimum)) in of_sub_blocks {
        let (scale, minimum) = (d * f32::from(*scale), m * f32::from(minimum));
        if scale != 0.0 {
            for (code, x) in codes.iter_mut().zip(x) {
                *code = nearest_level((x + minimum) / scale, f32::from(levels)) as u8;
            }
        }
    }
    codes
}

/// Returns the numbers with their weights, √(2·mean square + x²): large numbers count more.
fn weighted(x: &[f32; BLOCK]) -> SubBlocks {
    let squares: f32 = x.iter().map(|x| x * x).sum();
    let twice_the_mean = 2.0 * squares / BLOCK as f32;
    let lanes: [[f32; LANES]; NUMBERS] = from_fn(|i| from_fn(|s| x[s * NUMBERS + i]));
    SubBlocks::new(lanes, lanes.map(|x| x.map(|x| (twice_the_mean + x * x).sqrt())))
}
