//! The integers of quantised weights with AVX-512: 32 numbers of a row in one vector, shifted as `quantised` says.

use std::arch::x86_64::*;

use super::quantised::{self, NF4, Read};
use super::quantised_rows::{PART, word};

/// How the integers of a type of quantisation are read with AVX-512.
pub(super) trait ReadAvx512: Read {
    /// The integers of part `index` of a block, shifted.
    ///
    /// # Safety
    /// The block must be whole and have this part. The processor must have AVX-512F, BW, DQ and VL.
    unsafe fn integers(block: *const u8, index: usize) -> __m512i;
}

macro_rules! reader {
    ($name:ident, |$block:ident, $index:ident| $integers:block) => {
        impl ReadAvx512 for quantised::$name {
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            unsafe fn integers($block: *const u8, $index: usize) -> __m512i {
                let _ = $index;
                // SAFETY: all bytes that are read belong to the block, whose layout `weights/blocks.rs` has.
                unsafe { $integers }
            }
        }
    };
}

reader!(Q40, |block, index| {
    // Nibble − 8, in the high bits.
    flipped(_mm512_and_si512(nibbles(block.add(2), 12), words(0xf000)))
});

reader!(Q41, |block, index| { _mm512_and_si512(nibbles(block.add(4), 11), words(0x7800)) });

reader!(Q50, |block, index| {
    // Nibble + 16·bit − 16: the sign is changed where the bit is set.
    let q = flipped(_mm512_and_si512(nibbles(block.add(6), 11), words(0x7800)));
    with_bits(q, word(block.add(2)), 0x8000)
});

reader!(Q51, |block, index| {
    let q = _mm512_and_si512(nibbles(block.add(8), 10), words(0x3c00));
    with_bits(q, word(block.add(4)), 0x4000)
});

reader!(Q80, |block, index| {
    _mm512_slli_epi16::<8>(_mm512_cvtepu8_epi16(_mm256_loadu_si256(block.add(2).cast())))
});

reader!(Q4K, |block, index| {
    let both = bytes(block.add(16 + index / 2 * PART));
    _mm512_and_si512(_mm512_sllv_epi16(both, words(11 - index as u16 % 2 * 4)), words(0x7800))
});

reader!(Q5K, |block, index| {
    let both = bytes(block.add(48 + index / 2 * PART));
    let q = _mm512_and_si512(_mm512_sllv_epi16(both, words(10 - index as u16 % 2 * 4)), words(0x3c00));
    let high = _mm256_loadu_si256(block.add(16).cast());
    with_bits(q, _mm256_test_epi8_mask(high, _mm256_set1_epi8(1 << index)), 0x4000)
});

reader!(Q6K, |block, index| {
    // Two halves of 128 numbers, four parts each: 64 bytes of low nibbles, 32 of high pairs.
    let (part, quarter) = (index / 4, index as u16 % 4);
    let low = bytes(block.add(part * 64 + index % 2 * PART));
    let high = bytes(block.add(128 + part * PART));
    let low = _mm512_sllv_epi16(low, words(10 - quarter / 2 * 4));
    let high = _mm512_sllv_epi16(high, words(14 - 2 * quarter));
    let (low, high) = (_mm512_and_si512(low, words(0x3c00)), _mm512_and_si512(high, words(0xc000)));
    flipped(_mm512_or_si512(low, high))
});

reader!(Nf4, |block, index| {
    // The first of two is in the high bits.
    let both = _mm512_cvtepu8_epi32(_mm_loadu_si128(block.add(4 + index * PART / 2).cast()));
    let both = _mm512_or_si512(_mm512_srli_epi32::<4>(both), _mm512_slli_epi32::<16>(both));
    let codes = _mm256_loadu_si256(NF4.as_ptr().cast());
    let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(codes), codes);
    // The instruction reads five bits of each index, and the table holds the codes twice.
    _mm512_permutexvar_epi16(both, codes)
});

/// The same word everywhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn words(x: u16) -> __m512i {
    _mm512_set1_epi16(x.cast_signed())
}

/// Changes the sign bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn flipped(x: __m512i) -> __m512i {
    _mm512_xor_si512(x, words(0x8000))
}

/// Adds to the words that a mask names.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn with_bits(x: __m512i, mask: u32, bit: u16) -> __m512i {
    _mm512_mask_add_epi16(x, mask, x, words(bit))
}

/// 32 bytes as words of 16 bits.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn bytes(at: *const u8) -> __m512i {
    // SAFETY: the caller guarantees this.
    _mm512_cvtepu8_epi16(unsafe { _mm256_loadu_si256(at.cast()) })
}

/// The nibbles of 16 bytes, the low ones, then the high ones, with their lowest bit at `shift`. The other bits of the bytes
/// are beside them.
///
/// # Safety
/// The bytes must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn nibbles(at: *const u8, shift: u16) -> __m512i {
    // SAFETY: the caller guarantees this.
    let four_times = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(at.cast()) });
    // The first eight bytes as words in one quarter, the last eight in the next.
    let [first, last] = [0x8003_8002_8001_8000u64, 0x8007_8006_8005_8004].map(u64::cast_signed);
    let by = 0x0008_0008_0008_0008;
    let places = _mm512_set_epi64(last + by, first + by, last, first, last + by, first + by, last, first);
    let both = _mm512_shuffle_epi8(four_times, places);
    _mm512_sllv_epi16(both, _mm512_mask_blend_epi64(0xf0, words(shift), words(shift - 4)))
}
