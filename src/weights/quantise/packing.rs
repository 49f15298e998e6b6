//! Stores codes and scales as bytes.

use half::f16;

/// Stores a number as a half, and returns its rounded value.
#[inline(always)]
pub fn put_half(number: f32, bytes: &mut [u8]) -> f32 {
    let half = f16::from_f32(number);
    bytes.copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

/// Stores the lower four bits of each code, the first half of the codes in the low nibbles.
#[inline(always)]
pub fn put_nibbles(codes: &[u8], bytes: &mut [u8]) {
    let (low, high) = codes.split_at(codes.len() / 2);
    for (byte, (low, high)) in bytes.iter_mut().zip(low.iter().zip(high)) {
        *byte = low & 15 | high << 4;
    }
}

/// Stores the fifth bits of 32 codes in a little-endian word, the first one in the lowest bit.
#[inline(always)]
pub fn put_fifth_bits(codes: &[u8; 32], bytes: &mut [u8]) {
    let word = codes.iter().rev().fold(0u32, |word, code| word << 1 | u32::from(code >> 4 & 1));
    bytes.copy_from_slice(&word.to_le_bytes());
}

/// Packs eight scales and eight minima of 6 bits into 12 bytes, as ggml's `get_scale_min_k4` reads them. The first four
/// of each have a byte, whose upper two bits belong to the last four. The lower four bits of these are in the last 4
/// bytes.
pub fn put_six_bits(scales: [u8; 8], minima: [u8; 8], bytes: &mut [u8]) {
    for i in 0..4 {
        bytes[i] = scales[i] & 63 | scales[i + 4] >> 4 << 6;
        bytes[i + 4] = minima[i] & 63 | minima[i + 4] >> 4 << 6;
        bytes[i + 8] = scales[i + 4] & 15 | minima[i + 4] << 4;
    }
}
