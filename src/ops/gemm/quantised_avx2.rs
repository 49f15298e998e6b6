//! Quantised weights read as 16-bit integers with AVX2: 32 numbers of eight lanes at a time, 16 to a vector. The integers, their
//! shifts and their scales are those of `quantised`.

use std::arch::x86_64::*;

use super::quantised::{self, NF4, Read};
use super::quantised_rows::{PART, Rows, word};

/// Lanes that share vectors.
pub(super) const LANES: usize = 8;

/// The blocks in which eight lanes have a part.
#[derive(Clone, Copy)]
pub(super) struct Column<'a> {
    pub(super) rows: &'a Rows<LANES>,
    /// Bytes from the beginning of a row to the block.
    pub(super) block: usize,
}

impl Column<'_> {
    /// # Safety
    /// The blocks must have the bytes.
    #[inline]
    unsafe fn array(&self, at: usize) -> [u32; LANES] {
        let at = self.block + at;
        // SAFETY: the caller guarantees this.
        std::array::from_fn(|lane| unsafe { word(self.rows.start(lane).wrapping_add(at)) })
    }

    /// Four bytes of each block.
    ///
    /// # Safety
    /// The blocks must have the bytes, and the processor must have AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn words(&self, at: usize) -> __m256i {
        // SAFETY: the caller guarantees this, and the array is one vector.
        unsafe { _mm256_loadu_si256(self.array(at).as_ptr().cast()) }
    }

    /// A half of each block.
    ///
    /// # Safety
    /// Same as [`Column::words`], for these two bytes; the processor must have F16C, too.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn half(&self, at: usize) -> __m256 {
        let at = self.block + at;
        let halves: [u16; LANES] = std::array::from_fn(|lane| {
            // SAFETY: the caller guarantees this.
            u16::from_le(unsafe { self.rows.start(lane).wrapping_add(at).cast::<u16>().read_unaligned() })
        });
        // SAFETY: the array is one vector.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(halves.as_ptr().cast()) })
    }

    /// The first sixteen bytes of each block, as four words.
    ///
    /// # Safety
    /// Same as [`Column::words`].
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn quads(&self) -> [__m256i; 4] {
        // SAFETY: the caller guarantees this.
        let of =
            |lane: usize| unsafe { _mm_loadu_si128(self.rows.start(lane).wrapping_add(self.block).cast()) };
        let [a, b, c, d] = [0, 1, 2, 3].map(|lane| _mm256_set_m128i(of(lane + 4), of(lane)));
        let (low, high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (low_of_last, high_of_last) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(low, low_of_last),
            _mm256_unpackhi_epi64(low, low_of_last),
            _mm256_unpacklo_epi64(high, high_of_last),
            _mm256_unpackhi_epi64(high, high_of_last),
        ]
    }
}

/// The scales of a part's first and last 16 numbers, and its minimum, of eight lanes.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    pub(super) first: __m256,
    pub(super) last: __m256,
    pub(super) minimum: __m256,
}

/// How a type of quantisation is read with AVX2.
pub(super) trait ReadAvx2: Read {
    /// The scales of part `index` of the blocks.
    ///
    /// # Safety
    /// The blocks must be whole and have this part. The processor must have AVX2 and F16C.
    unsafe fn scales_of(column: &Column<'_>, index: usize) -> Scales;

    /// The first and last 16 integers of part `index` of a block, shifted.
    ///
    /// # Safety
    /// Same as [`ReadAvx2::scales_of`].
    unsafe fn halves(block: *const u8, index: usize) -> [__m256i; 2];
}

macro_rules! reader {
    (
        $name:ident,
        scales: |$column:ident, $of:ident| $scales:block
        integers: |$block:ident, $index:ident| $integers:block
    ) => {
        impl ReadAvx2 for quantised::$name {
            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn scales_of($column: &Column<'_>, $of: usize) -> Scales {
                let _ = $of;
                // SAFETY: all bytes that are read belong to the blocks, whose layout `weights/blocks.rs` has.
                unsafe { $scales }
            }

            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn halves($block: *const u8, $index: usize) -> [__m256i; 2] {
                let _ = $index;
                // SAFETY: as above.
                unsafe { $integers }
            }
        }
    };
}

reader!(Q40,
    scales: |column, of| { one(column.half(0)) }
    integers: |block, index| { nibbles::<12, 8>(block.add(2), 0xf000).map(|q| flipped(q)) }
);

reader!(Q41,
    scales: |column, of| { with_minimum(column) }
    integers: |block, index| { nibbles::<11, 7>(block.add(4), 0x7800) }
);

reader!(Q50,
    scales: |column, of| { one(column.half(0)) }
    integers: |block, index| {
        // Nibble + 16·bit − 16: the sign is changed where the bit is set.
        let [first, last] = nibbles::<11, 7>(block.add(6), 0x7800).map(|q| flipped(q));
        let bits = word(block.add(2));
        [_mm256_xor_si256(first, spread(bits, 0x8000)), _mm256_xor_si256(last, spread(bits >> 16, 0x8000))]
    }
);

reader!(Q51,
    scales: |column, of| { with_minimum(column) }
    integers: |block, index| {
        let [first, last] = nibbles::<10, 6>(block.add(8), 0x3c00);
        let bits = word(block.add(4));
        [_mm256_or_si256(first, spread(bits, 0x4000)), _mm256_or_si256(last, spread(bits >> 16, 0x4000))]
    }
);

reader!(Q80,
    scales: |column, of| { one(column.half(0)) }
    integers: |block, index| { bytes(block.add(2)).map(|q| _mm256_slli_epi16::<8>(q)) }
);

reader!(Q4K,
    scales: |column, of| { of_super_block(column, of) }
    integers: |block, index| {
        let up = _mm_cvtsi32_si128(11 - index as i32 % 2 * 4);
        bytes(block.add(16 + index / 2 * PART))
            .map(|both| _mm256_and_si256(_mm256_sll_epi16(both, up), words(0x7800)))
    }
);

reader!(Q5K,
    scales: |column, of| { of_super_block(column, of) }
    integers: |block, index| {
        let up = _mm_cvtsi32_si128(10 - index as i32 % 2 * 4);
        let (low, high) = (bytes(block.add(48 + index / 2 * PART)), bytes(block.add(16)));
        // The fifth bit, above the others.
        let to_place = _mm_cvtsi32_si128(14 - index as i32);
        std::array::from_fn(|i| {
            let q = _mm256_and_si256(_mm256_sll_epi16(low[i], up), words(0x3c00));
            _mm256_or_si256(q, _mm256_and_si256(_mm256_sll_epi16(high[i], to_place), words(0x4000)))
        })
    }
);

reader!(Q6K,
    scales: |column, of| {
        // The scale of the block is in the last two bytes. The 16 of its parts are eight-bit integers.
        let (d, scales) = (column.half(208), column.words(192 + of / 2 * 4));
        let of_part = |at: i32| {
            let up = _mm256_sll_epi32(scales, _mm_cvtsi32_si128(24 - 8 * at));
            _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(up)))
        };
        let at = of as i32 % 2 * 2;
        Scales { first: of_part(at), last: of_part(at + 1), minimum: _mm256_setzero_ps() }
    }
    integers: |block, index| {
        // Two halves of 128 numbers, four parts each: 64 bytes of low nibbles, 32 of high pairs.
        let (part, quarter) = (index / 4, index as i32 % 4);
        let (low, high) = (bytes(block.add(part * 64 + index % 2 * PART)), bytes(block.add(128 + part * PART)));
        let (of_low, of_high) = (_mm_cvtsi32_si128(10 - quarter / 2 * 4), _mm_cvtsi32_si128(14 - 2 * quarter));
        std::array::from_fn(|i| {
            let low = _mm256_and_si256(_mm256_sll_epi16(low[i], of_low), words(0x3c00));
            let high = _mm256_and_si256(_mm256_sll_epi16(high[i], of_high), words(0xc000));
            flipped(_mm256_or_si256(low, high))
        })
    }
);

reader!(Nf4,
    scales: |column, of| { one(_mm256_castsi256_ps(column.words(0))) }
    integers: |block, index| {
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
    }
);

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

/// The same scale for all numbers, and no minimum.
#[inline]
#[target_feature(enable = "avx2")]
fn one(scale: __m256) -> Scales {
    Scales { first: scale, last: scale, minimum: _mm256_setzero_ps() }
}

/// The scale in the first two bytes and the minimum in the next.
///
/// # Safety
/// Same as [`ReadAvx2::scales_of`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn with_minimum(column: &Column<'_>) -> Scales {
    // SAFETY: the caller guarantees this.
    let (scale, minimum) = unsafe { (column.half(0), column.half(2)) };
    Scales { first: scale, last: scale, minimum }
}

/// Scale and minimum of part `index` of super-blocks, as in `quantised`.
///
/// # Safety
/// Same as [`ReadAvx2::scales_of`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn of_super_block(column: &Column<'_>, index: usize) -> Scales {
    // SAFETY: the caller guarantees this.
    let ([_, first, second, third], d, m) = unsafe { (column.quads(), column.half(0), column.half(2)) };
    let byte = _mm_cvtsi32_si128(index as i32 % 4 * 8);
    let [first, second, third] = [first, second, third].map(|x| _mm256_srl_epi32(x, byte));
    let bits = |x, mask: i32| _mm256_and_si256(x, _mm256_set1_epi32(mask));
    let (scale, minimum) = if index < 4 {
        (bits(first, 63), bits(second, 63))
    } else {
        // The low four bits of both are in the third word, the high two above those of the first parts.
        let high = |x| bits(_mm256_srli_epi32::<2>(x), 0x30);
        (
            _mm256_or_si256(bits(third, 15), high(first)),
            _mm256_or_si256(bits(_mm256_srli_epi32::<4>(third), 15), high(second)),
        )
    };
    let scale = _mm256_mul_ps(d, _mm256_cvtepi32_ps(scale));
    let minimum = _mm256_mul_ps(m, _mm256_cvtepi32_ps(minimum));
    Scales { first: scale, last: scale, minimum: _mm256_sub_ps(_mm256_setzero_ps(), minimum) }
}
