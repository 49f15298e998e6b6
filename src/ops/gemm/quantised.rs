//! Quantised weights read as 16-bit integers, 32 numbers of 16 lanes at a time.
//!
//! A number of a part is `s·q + m`, with an integer `q` of at most eight bits. `q` is read shifted to the left, so that one
//! instruction multiplies it by a 16-bit factor and rounds: `⌊(q·2^SHIFT · f + 2^14) / 2^15⌋`, where `f` is `s` in units of
//! the chunk's scale times `2^(15 − SHIFT)`. Nothing passes through f32 but scales and minima (`fixed_chunk`).

use std::arch::x86_64::*;

use super::quantised_rows::{PART, Rows, word};
use crate::weights::{BlockKind, NF4_CODES};

/// Lanes that share vectors.
pub(super) const LANES: usize = 16;

/// The blocks in which 16 lanes have a part.
#[derive(Clone, Copy)]
pub(super) struct Column<'a> {
    pub(super) rows: &'a Rows<LANES>,
    /// Bytes from the beginning of a row to the block.
    pub(super) block: usize,
}

impl Column<'_> {
    /// Four bytes of each block. Sixteen loads are faster than a gathering instruction.
    ///
    /// # Safety
    /// The blocks must have the bytes, and the processor must have AVX-512F.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn words(&self, at: usize) -> __m512i {
        let at = self.block + at;
        // SAFETY: the caller guarantees this.
        let words: [u32; LANES] =
            std::array::from_fn(|lane| unsafe { word(self.rows.start(lane).wrapping_add(at)) });
        // SAFETY: the array is one vector.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    /// The first sixteen bytes of each block, as four words.
    ///
    /// # Safety
    /// Same as [`Column::words`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn quads(&self) -> [__m512i; 4] {
        // SAFETY: the caller guarantees this.
        let of =
            |lane: usize| unsafe { _mm_loadu_si128(self.rows.start(lane).wrapping_add(self.block).cast()) };
        // Every fourth lane, beginning with one of the first four.
        let every_fourth = |lane: usize| {
            let four = _mm512_castsi128_si512(of(lane));
            let four = _mm512_inserti32x4::<1>(four, of(lane + 4));
            let four = _mm512_inserti32x4::<2>(four, of(lane + 8));
            _mm512_inserti32x4::<3>(four, of(lane + 12))
        };
        let [a, b, c, d] = [0, 1, 2, 3].map(every_fourth);
        let (low, high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (low_of_last, high_of_last) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(low, low_of_last),
            _mm512_unpackhi_epi64(low, low_of_last),
            _mm512_unpacklo_epi64(high, high_of_last),
            _mm512_unpackhi_epi64(high, high_of_last),
        ]
    }
}

/// The scales of a part's first and last 16 numbers, and its minimum, of 16 lanes.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    pub(super) first: __m512,
    pub(super) last: __m512,
    pub(super) minimum: __m512,
}

/// How a type of quantisation is read.
pub(super) trait Read {
    /// The type.
    const KIND: BlockKind;
    /// The greatest magnitude of `q`.
    const MOST: f32;
    /// Bits by which `q` is shifted to the left.
    const SHIFT: u32;
    /// Whether there are minima; if so, no `q` is negative.
    const MINIMA: bool;
    /// Whether the last 16 numbers of a part have a scale of their own.
    const HALVES: bool;

    /// The scales of part `index` of the blocks.
    ///
    /// # Safety
    /// The blocks must be whole and have this part. The processor must have AVX-512F, BW, DQ and VL.
    unsafe fn scales(column: &Column<'_>, index: usize) -> Scales;

    /// The integers of part `index` of a block, shifted.
    ///
    /// # Safety
    /// Same as [`Read::scales`].
    unsafe fn integers(block: *const u8, index: usize) -> __m512i;
}

/// Calls `$function::<R>($arguments)` for the reader of a type.
macro_rules! of_kind {
    ($kind:expr, $function:ident($($argument:expr),* $(,)?)) => {{
        use $crate::ops::gemm::quantised as read;
        match $kind {
            BlockKind::Q4_0 => $function::<read::Q40>($($argument),*),
            BlockKind::Q4_1 => $function::<read::Q41>($($argument),*),
            BlockKind::Q5_0 => $function::<read::Q50>($($argument),*),
            BlockKind::Q5_1 => $function::<read::Q51>($($argument),*),
            BlockKind::Q8_0 => $function::<read::Q80>($($argument),*),
            BlockKind::Q4K => $function::<read::Q4K>($($argument),*),
            BlockKind::Q5K => $function::<read::Q5K>($($argument),*),
            BlockKind::Q6K => $function::<read::Q6K>($($argument),*),
            BlockKind::Nf4 => $function::<read::Nf4>($($argument),*),
        }
    }};
}
pub(super) use of_kind;

macro_rules! reader {
    (
        $name:ident, $kind:ident, $most:literal << $shift:literal, minima: $minima:literal, halves: $halves:literal,
        scales: |$column:ident, $of:ident| $scales:block
        integers: |$block:ident, $index:ident| $integers:block
    ) => {
        pub(super) struct $name;

        impl Read for $name {
            const KIND: BlockKind = BlockKind::$kind;
            const MOST: f32 = $most;
            const SHIFT: u32 = $shift;
            const MINIMA: bool = $minima;
            const HALVES: bool = $halves;

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            unsafe fn scales($column: &Column<'_>, $of: usize) -> Scales {
                let _ = $of;
                // SAFETY: all bytes that are read belong to the blocks, whose layout `weights/blocks.rs` has.
                unsafe { $scales }
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            unsafe fn integers($block: *const u8, $index: usize) -> __m512i {
                let _ = $index;
                // SAFETY: as above.
                unsafe { $integers }
            }
        }
    };
}

reader!(Q40, Q4_0, 8.0 << 12, minima: false, halves: false,
    scales: |column, of| { one(low_halves(column.words(0))) }
    integers: |block, index| {
        // Nibble − 8, in the high bits.
        flipped(_mm512_and_si512(nibbles(block.add(2), 12), words(0xf000)))
    }
);

reader!(Q41, Q4_1, 15.0 << 11, minima: true, halves: false,
    scales: |column, of| { with_minimum(column.words(0)) }
    integers: |block, index| { _mm512_and_si512(nibbles(block.add(4), 11), words(0x7800)) }
);

reader!(Q50, Q5_0, 16.0 << 11, minima: false, halves: false,
    scales: |column, of| { one(low_halves(column.words(0))) }
    integers: |block, index| {
        // Nibble + 16·bit − 16: the sign is changed where the bit is set.
        let q = flipped(_mm512_and_si512(nibbles(block.add(6), 11), words(0x7800)));
        with_bits(q, word(block.add(2)), 0x8000)
    }
);

reader!(Q51, Q5_1, 31.0 << 10, minima: true, halves: false,
    scales: |column, of| { with_minimum(column.words(0)) }
    integers: |block, index| {
        let q = _mm512_and_si512(nibbles(block.add(8), 10), words(0x3c00));
        with_bits(q, word(block.add(4)), 0x4000)
    }
);

reader!(Q80, Q8_0, 128.0 << 8, minima: false, halves: false,
    scales: |column, of| { one(low_halves(column.words(0))) }
    integers: |block, index| {
        _mm512_slli_epi16::<8>(_mm512_cvtepu8_epi16(_mm256_loadu_si256(block.add(2).cast())))
    }
);

reader!(Q4K, Q4K, 15.0 << 11, minima: true, halves: false,
    scales: |column, of| { of_super_block(column, of) }
    integers: |block, index| {
        let both = bytes(block.add(16 + index / 2 * PART));
        _mm512_and_si512(_mm512_sllv_epi16(both, words(11 - index as u16 % 2 * 4)), words(0x7800))
    }
);

reader!(Q5K, Q5K, 31.0 << 10, minima: true, halves: false,
    scales: |column, of| { of_super_block(column, of) }
    integers: |block, index| {
        let both = bytes(block.add(48 + index / 2 * PART));
        let q = _mm512_and_si512(_mm512_sllv_epi16(both, words(10 - index as u16 % 2 * 4)), words(0x3c00));
        let high = _mm256_loadu_si256(block.add(16).cast());
        with_bits(q, _mm256_test_epi8_mask(high, _mm256_set1_epi8(1 << index)), 0x4000)
    }
);

reader!(Q6K, Q6K, 32.0 << 10, minima: false, halves: true,
    scales: |column, of| {
        // The scale of the block is in the last two bytes. The 16 of its parts are eight-bit integers.
        let d = high_halves(column.words(206));
        let scales = column.words(192 + of / 2 * 4);
        let of_part = |at: u32| {
            let up = _mm512_sllv_epi32(scales, _mm512_set1_epi32((24 - 8 * at).cast_signed()));
            _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(up)))
        };
        let at = of as u32 % 2 * 2;
        Scales { first: of_part(at), last: of_part(at + 1), minimum: _mm512_setzero_ps() }
    }
    integers: |block, index| {
        // Two halves of 128 numbers, four parts each: 64 bytes of low nibbles, 32 of high pairs.
        let (part, quarter) = (index / 4, index as u16 % 4);
        let low = bytes(block.add(part * 64 + index % 2 * PART));
        let high = bytes(block.add(128 + part * PART));
        let low = _mm512_sllv_epi16(low, words(10 - quarter / 2 * 4));
        let high = _mm512_sllv_epi16(high, words(14 - 2 * quarter));
        let (low, high) = (_mm512_and_si512(low, words(0x3c00)), _mm512_and_si512(high, words(0xc000)));
        flipped(_mm512_or_si512(low, high))
    }
);

reader!(Nf4, Nf4, 1.0 << 15, minima: false, halves: false,
    scales: |column, of| { one(_mm512_castsi512_ps(column.words(0))) }
    integers: |block, index| {
        // The first of two is in the high bits.
        let both = _mm512_cvtepu8_epi32(_mm_loadu_si128(block.add(4 + index * PART / 2).cast()));
        let both = _mm512_or_si512(_mm512_srli_epi32::<4>(both), _mm512_slli_epi32::<16>(both));
        let codes = _mm256_loadu_si256(NF4.as_ptr().cast());
        let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(codes), codes);
        // The instruction reads five bits of each index, and the table holds the codes twice.
        _mm512_permutexvar_epi16(both, codes)
    }
);

/// The numbers of NF4's codes times 2¹⁵; 1 is 2¹⁵ − 1.
pub(super) const NF4: [i16; 16] = {
    let (mut all, mut i) = ([0; 16], 0);
    while i < 16 {
        let x = NF4_CODES[i] * 32768.0;
        // Rounds away from zero, and to the greatest integer.
        all[i] = (if x < 0.0 { x - 0.5 } else { x + 0.5 }) as i16;
        i += 1;
    }
    all
};

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

/// The same scale for all numbers, and no minimum.
#[inline]
#[target_feature(enable = "avx512f")]
fn one(scale: __m512) -> Scales {
    Scales { first: scale, last: scale, minimum: _mm512_setzero_ps() }
}

/// The halves in the low parts of words.
#[inline]
#[target_feature(enable = "avx512f")]
fn low_halves(words: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words))
}

/// The halves in the high parts of words.
#[inline]
#[target_feature(enable = "avx512f")]
fn high_halves(words: __m512i) -> __m512 {
    low_halves(_mm512_srli_epi32::<16>(words))
}

/// The scale in the low half of a word and the minimum in the high one.
#[inline]
#[target_feature(enable = "avx512f")]
fn with_minimum(words: __m512i) -> Scales {
    let scale = low_halves(words);
    Scales { first: scale, last: scale, minimum: high_halves(words) }
}

/// Scale and minimum of part `index` of super-blocks: six bits each in twelve bytes (`scale_and_minimum`), times those of
/// the block. The minimum is subtracted.
///
/// # Safety
/// Same as [`Read::scales`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn of_super_block(column: &Column<'_>, index: usize) -> Scales {
    // SAFETY: the caller guarantees this.
    let [of_block, first, second, third] = unsafe { column.quads() };
    let byte = _mm512_set1_epi32((index % 4 * 8) as i32);
    let [first, second, third] = [first, second, third].map(|x| _mm512_srlv_epi32(x, byte));
    let bits = |x, mask: i32| _mm512_and_si512(x, _mm512_set1_epi32(mask));
    let (scale, minimum) = if index < 4 {
        (bits(first, 63), bits(second, 63))
    } else {
        // The low four bits of both are in the third word, the high two above those of the first parts.
        let high = |x| bits(_mm512_srli_epi32::<2>(x), 0x30);
        (
            _mm512_or_si512(bits(third, 15), high(first)),
            _mm512_or_si512(bits(_mm512_srli_epi32::<4>(third), 15), high(second)),
        )
    };
    let scale = _mm512_mul_ps(low_halves(of_block), _mm512_cvtepi32_ps(scale));
    let minimum = _mm512_mul_ps(high_halves(of_block), _mm512_cvtepi32_ps(minimum));
    Scales { first: scale, last: scale, minimum: _mm512_sub_ps(_mm512_setzero_ps(), minimum) }
}
