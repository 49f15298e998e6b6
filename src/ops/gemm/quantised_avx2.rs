//! The integers of quantised weights with AVX2: 32 numbers of a row in two vectors, shifted as `quantised` says.

use std::arch::x86_64::*;

use super::quantised::{self, NF4, Read};
use super::quantised_rows::{PART, word};

/// How the integers of a type of quantisation are read with AVX2.
pub(super) trait ReadAvx2: Read {
    /// The first and last 16 integers of part `index` of a block, shifted.
    ///
    /// # Safety
    /// The block must be whole and have this part. The processor must have AVX2.
    unsafe fn halves(block: *const u8, index: usize) -> [__m256i; 2];
}

macro_rules! reader {
    ($name:ident, |$block:ident, $index:ident| $integers:block) => {
        impl ReadAvx2 for quantised::$name {
            #[inline]
            #[target_feature(enable = "avx2")]
            unsafe fn halves($block: *const u8, $index: usize) -> [__m256i; 2] {
                let _ = $index;
                // SAFETY: all bytes that are read belong to the block, whose layout `weights/blocks.rs` has.
                unsafe { $integers }
            }
        }
    };
}

reader!(Q40, |block, index| { nibbles::<12, 8>(block.add(2), 0xf000).map(|q| flipped(q)) });

reader!(Q41, |block, index| { nibbles::<11, 7>(block.add(4), 0x7800) });

reader!(Q50, |block, index| {
    // Nibble + 16·bit − 16: the sign is changed where the bit is set.
    let [first, last] = nibbles::<11, 7>(block.add(6), 0x7800).map(|q| flipped(q));
    let bits = word(block.add(2));
    [_mm256_xor_si256(first, spread(bits, 0x8000)), _mm256_xor_si256(last, spread(bits >> 16, 0x8000))]
});

reader!(Q51, |block, index| {
    let [first, last] = nibbles::<10, 6>(block.add(8), 0x3c00);
    let bits = word(block.add(4));
    [_mm256_or_si256(first, spread(bits, 0x4000)), _mm256_or_si256(last, spread(bits >> 16, 0x4000))]
});

reader!(Q80, |block, index| { bytes(block.add(2)).map(|q| _mm256_slli_epi16::<8>(q)) });

reader!(Q4K, |block, index| {
    let up = _mm_cvtsi32_si128(11 - index as i32 % 2 * 4);
    bytes(block.add(16 + index / 2 * PART))
        .map(|both| _mm256_and_si256(_mm256_sll_epi16(both, up), words(0x7800)))
});

reader!(Q5K, |block, index| {
    let up = _mm_cvtsi32_si128(10 - index as i32 % 2 * 4);
    let (low, high) = (bytes(block.add(48 + index / 2 * PART)), bytes(block.add(16)));
    // The fifth bit, above the others.
    let to_place = _mm_cvtsi32_si128(14 - index as i32);
    std::array::from_fn(|i| {
        let q = _mm256_and_si256(_mm256_sll_epi16(low[i], up), words(0x3c00));
        _mm256_or_si256(q, _mm256_and_si256(_mm256_sll_epi16(high[i], to_place), words(0x4000)))
    })
});

reader!(Q6K, |block, index| {
    // Two halves of 128 numbers, four parts each: 64 bytes of low nibbles, 32 of high pairs.
    let (part, quarter) = (index / 4, index as i32 % 4);
    let (low, high) = (bytes(block.add(part * 64 + index % 2 * PART)), bytes(block.add(128 + part * PART)));
    let (of_low, of_high) = (_mm_cvtsi32_si128(10 - quarter / 2 * 4), _mm_cvtsi32_si128(14 - 2 * quarter));
    std::array::from_fn(|i| {
        let low = _mm256_and_si256(_mm256_sll_epi16(low[i], of_low), words(0x3c00));
        let high = _mm256_and_si256(_mm256_sll_epi16(high[i], of_high), words(0xc000));
        flipped(_mm256_or_si256(low, high))
    })
});

reader!(Nf4, |block, index| {
    // The first of two is in the high bits.
    let both = _mm_loadu_si128(block.add(4 + index * PART / 2).cast());
    let low_bits = _mm_set1_epi8(15);
    let (first, second) = (_mm_and_si128(_mm_srli_epi16::<4>(both), low_bits), _mm_and_si128(both, low_bits));
    let table = |bytes: &[u8; 16]| _mm_loadu_si128(bytes.as_ptr().cast());
    let (low, high) = (table(&const { bytes_of(0) }), table(&const { bytes_of(8) }));
    [_mm_unpacklo_epi8(first, second), _mm_unpackhi_epi8(first, second)].map(|codes| {
        let (low, high) = (_mm_shuffle_epi8(low, codes), _mm_shuffle_epi8(high, codes));
        _mm256_set_m128i(_mm_unpackhi_epi8(low, high), _mm_unpacklo_epi8(low, high))
    })
});

/// The bytes of NF4's integers from bit `shift` on.
const fn bytes_of(shift: u32) -> [u8; 16] {
    let (mut all, mut i) = ([0; 16], 0);
    while i < 16 {
        all[i] = (NF4[i] >> shift) as u8;
        i += 1;
    }
    all
}

/// The same word everywhere.
#[inline]
#[target_feature(enable = "avx2")]
fn words(x: u16) -> __m256i {
    _mm256_set1_epi16(x.cast_signed())
}

/// Changes the sign bits.
#[inline]
#[target_feature(enable = "avx2")]
fn flipped(x: __m256i) -> __m256i {
    _mm256_xor_si256(x, words(0x8000))
}

/// `bit` in each of 16 words of which `mask` has the bit.
#[inline]
#[target_feature(enable = "avx2")]
fn spread(mask: u32, bit: u16) -> __m256i {
    let one =
        _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, i16::MIN);
    let set = _mm256_cmpeq_epi16(_mm256_and_si256(words(mask as u16), one), one);
    _mm256_and_si256(set, words(bit))
}

/// 32 bytes as words of 16 bits.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn bytes(at: *const u8) -> [__m256i; 2] {
    // SAFETY: the caller guarantees this.
    [0, 16].map(|i| _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(at.wrapping_add(i).cast()) }))
}

/// The low nibbles of 16 bytes shifted by `LOW`, and the high ones by `HIGH` from their place in the byte; `mask` has their bits.
///
/// # Safety
/// The bytes must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles<const LOW: i32, const HIGH: i32>(at: *const u8, mask: u16) -> [__m256i; 2] {
    // SAFETY: the caller guarantees this.
    let both = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(at.cast()) });
    [
        _mm256_and_si256(_mm256_slli_epi16::<LOW>(both), words(mask)),
        _mm256_and_si256(_mm256_slli_epi16::<HIGH>(both), words(mask)),
    ]
}
