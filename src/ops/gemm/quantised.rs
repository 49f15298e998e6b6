//! The types of quantised weights, and the scales of a row's parts of 32 numbers.
//!
//! A number of a part is `s·q + m`, with an integer `q` of at most eight bits. `q` is read shifted to the left, so that one
//! instruction multiplies it by a 16-bit factor and rounds: `⌊(q·2^SHIFT · f + 2^14) / 2^15⌋`, where `f` is `s` in units of
//! the chunk's scale times `2^(15 − SHIFT)`. Nothing passes through f32 but scales and minima (`fixed_chunk`).

use std::arch::x86_64::*;

use super::quantised_rows::{PART, word};
use crate::weights::{BlockKind, NF4_CODES};

/// Parts whose scales are read together.
pub(super) const TOGETHER: usize = 8;

/// For each of eight parts, the scales of its first and last 16 numbers, and its minimum.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    pub(super) first: __m256,
    pub(super) last: __m256,
    pub(super) minimum: __m256,
}

/// Some parts of a row: where the row begins, the first part, and how many there are (1 to 8).
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub(super) row: *const u8,
    pub(super) first: usize,
    pub(super) count: usize,
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

    /// The scales of some parts. Those that are missing have the scales of others of the row.
    ///
    /// # Safety
    /// The row must have the parts, in whole blocks. The processor must have AVX2 and F16C.
    unsafe fn scales(parts: Parts) -> Scales;
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

macro_rules! kind {
    (
        $name:ident, $kind:ident, $most:literal << $shift:literal, minima: $minima:literal, halves: $halves:literal,
        |$parts:ident| $scales:expr
    ) => {
        pub(super) struct $name;

        impl Read for $name {
            const KIND: BlockKind = BlockKind::$kind;
            const MOST: f32 = $most;
            const SHIFT: u32 = $shift;
            const MINIMA: bool = $minima;
            const HALVES: bool = $halves;

            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn scales($parts: Parts) -> Scales {
                // SAFETY: all bytes that are read belong to the blocks, whose layout `weights/blocks.rs` has.
                unsafe { $scales }
            }
        }
    };
}

kind!(Q40, Q4_0, 8.0 << 12, minima: false, halves: false, |parts| one(halves::<Self>(parts, 0)));
kind!(Q41, Q4_1, 15.0 << 11, minima: true, halves: false, |parts| with_minimum::<Self>(parts));
kind!(Q50, Q5_0, 16.0 << 11, minima: false, halves: false, |parts| one(halves::<Self>(parts, 0)));
kind!(Q51, Q5_1, 31.0 << 10, minima: true, halves: false, |parts| with_minimum::<Self>(parts));
kind!(Q80, Q8_0, 128.0 << 8, minima: false, halves: false, |parts| one(halves::<Self>(parts, 0)));
kind!(Q4K, Q4K, 15.0 << 11, minima: true, halves: false, |parts| of_super_blocks::<Self>(parts));
kind!(Q5K, Q5K, 31.0 << 10, minima: true, halves: false, |parts| of_super_blocks::<Self>(parts));
kind!(Q6K, Q6K, 32.0 << 10, minima: false, halves: true, |parts| of_signed_bytes::<Self>(parts));
kind!(Nf4, Nf4, 1.0 << 15, minima: false, halves: false, |parts| one(words::<Self>(parts)));

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

/// Where the block of a part begins, in bytes from the beginning of its row, and the part's index in it.
#[inline(always)]
pub(super) fn place<R: Read>(part: usize) -> (usize, usize) {
    let (numbers, size) = const { R::KIND.block() };
    let parts = numbers / PART;
    (part / parts * size, part % parts)
}

/// Where the blocks of the parts begin.
#[inline(always)]
fn blocks<R: Read>(Parts { row, first, count }: Parts) -> [*const u8; TOGETHER] {
    if count == TOGETHER {
        return std::array::from_fn(|i| row.wrapping_add(place::<R>(first + i).0));
    }
    std::array::from_fn(|i| row.wrapping_add(place::<R>(first + i.min(count - 1)).0))
}

/// A half of each block.
///
/// # Safety
/// Same as [`Read::scales`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn halves<R: Read>(parts: Parts, at: usize) -> __m256 {
    // SAFETY: the caller guarantees this.
    let half = |block: *const u8| unsafe { block.wrapping_add(at).cast::<i16>().read_unaligned() };
    let [a, b, c, d, e, f, g, h] = blocks::<R>(parts).map(|block| i32::from(half(block)));
    // Two short chains of insertions.
    let four = |a: i32, b: i32, c: i32, d: i32| {
        let x = _mm_insert_epi16::<1>(_mm_cvtsi32_si128(a), b);
        _mm_insert_epi16::<3>(_mm_insert_epi16::<2>(x, c), d)
    };
    _mm256_cvtph_ps(_mm_unpacklo_epi64(four(a, b, c, d), four(e, f, g, h)))
}

/// The first number of each block.
///
/// # Safety
/// Same as [`Read::scales`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn words<R: Read>(parts: Parts) -> __m256 {
    // SAFETY: the caller guarantees this.
    let words = blocks::<R>(parts).map(|block| unsafe { word(block) });
    // SAFETY: the array is one vector.
    unsafe { _mm256_loadu_ps(words.as_ptr().cast()) }
}

/// The same scale for all numbers of a part, and no minimum.
#[inline]
#[target_feature(enable = "avx2")]
fn one(scale: __m256) -> Scales {
    Scales { first: scale, last: scale, minimum: _mm256_setzero_ps() }
}

/// The scale in the first two bytes of each block and the minimum in the next.
///
/// # Safety
/// Same as [`Read::scales`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn with_minimum<R: Read>(parts: Parts) -> Scales {
    // SAFETY: the caller guarantees this.
    let (scale, minimum) = unsafe { (halves::<R>(parts, 0), halves::<R>(parts, 2)) };
    Scales { first: scale, last: scale, minimum }
}

/// The super-blocks of eight parts each in which some parts begin and end, and the parts of the first that come before.
#[inline(always)]
fn super_blocks<R: Read>(parts: Parts) -> ([*const u8; 2], usize) {
    let of = |part: usize| parts.row.wrapping_add(place::<R>(part).0);
    ([of(parts.first), of(parts.first + parts.count - 1)], parts.first % TOGETHER)
}

/// A half of the super-block that each part is in.
///
/// # Safety
/// The blocks must have the bytes, and the processor must have AVX2 and F16C.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn half_of((blocks, before): ([*const u8; 2], usize), at: usize) -> __m256 {
    let [first, last] = blocks.map(|block| {
        // SAFETY: the caller guarantees this.
        let half = unsafe { block.wrapping_add(at).cast::<i16>().read_unaligned() };
        _mm256_cvtph_ps(_mm_set1_epi16(half))
    });
    let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let in_last = _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(7 - before as i32));
    _mm256_blendv_ps(first, last, _mm256_castsi256_ps(in_last))
}

/// Scale and minimum of parts of super-blocks: six bits each in twelve bytes (`scale_and_minimum`), times those of the block.
/// The minimum is subtracted.
///
/// # Safety
/// Same as [`Read::scales`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn of_super_blocks<R: Read>(parts: Parts) -> Scales {
    let at @ (blocks, before) = super_blocks::<R>(parts);
    // The scales of eight parts and their minima, one byte each.
    let bytes = blocks.map(|block| {
        // SAFETY: the caller guarantees this.
        let [first, second, third] = [4, 8, 12].map(|at| unsafe { word(block.wrapping_add(at)) });
        let low = |x: u32| x & 0x3f3f_3f3f;
        // The low four bits of both are in the third word, the high two above those of the first parts.
        let high = |bits: u32, x: u32| bits & 0x0f0f_0f0f | x >> 2 & 0x3030_3030;
        let joined = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [joined(low(first), high(third, first)), joined(low(second), high(third >> 4, second))]
    });
    let numbers = |i: usize| {
        let [first, last] = bytes.map(|bytes| bytes[i]);
        let of_parts = if before == 0 { first } else { first >> (8 * before) | last << (64 - 8 * before) };
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(of_parts.cast_signed())))
    };
    // SAFETY: the caller guarantees this.
    let (d, m) = unsafe { (half_of(at, 0), half_of(at, 2)) };
    let (scale, minimum) = (_mm256_mul_ps(d, numbers(0)), _mm256_mul_ps(m, numbers(1)));
    Scales { first: scale, last: scale, minimum: _mm256_sub_ps(_mm256_setzero_ps(), minimum) }
}

/// Scales of Q6_K: two eight-bit integers for each part, times that of the block, which is in its last two bytes.
///
/// # Safety
/// Same as [`Read::scales`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn of_signed_bytes<R: Read>(parts: Parts) -> Scales {
    let at @ (blocks, before) = super_blocks::<R>(parts);
    let [first, last] =
        // SAFETY: the caller guarantees this.
        blocks.map(|block| unsafe { block.wrapping_add(192).cast::<u128>().read_unaligned() });
    let of_parts = if before == 0 { first } else { first >> (16 * before) | last << (128 - 16 * before) };
    // SAFETY: the number is one vector.
    let both = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128((&raw const of_parts).cast()) });
    // SAFETY: the caller guarantees this.
    let d = unsafe { half_of(at, 208) };
    let number = |words: __m256i| _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(words)));
    Scales { first: number(_mm256_slli_epi32::<16>(both)), last: number(both), minimum: _mm256_setzero_ps() }
}
