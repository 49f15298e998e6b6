//! Quantised weights read into vectors, 32 numbers at a time. The numbers have the bits of [`Blocks::read`].
//!
//! A product with its own scale is exact in f32 (at most 22 bits), so that adding the minimum rounds once either way and
//! may be fused with it. Only Q6_K's product may need more bits; it is rounded as there.

use std::arch::x86_64::*;

use super::operand::Operand;
use crate::weights::{BlockKind, Elements, NF4_CODES, scale_and_minimum};

/// Numbers that are read at once.
pub(super) const PART: usize = 32;

/// How a type of quantisation is read.
pub(super) trait Read {
    /// The type.
    const KIND: BlockKind;
    /// Where a block has its scale, a half.
    const SCALE: usize;

    /// Reads part `index` of a block with the scale `d`.
    ///
    /// # Safety
    /// `block` must point at a whole block that has this part, and the processor must have AVX-512F, BW and VL.
    unsafe fn part(block: *const u8, index: usize, d: f32) -> [__m512; 2];
}

/// Whether the numbers of an operand are contiguous along `k` and consist of whole parts, and its lanes of whole blocks.
pub(super) fn fits(from: &Operand) -> bool {
    let Elements::Blocks(blocks) = from.data else { return false };
    let numbers = blocks.kind().block().0;
    from.k_stride == 1
        && from.k.is_multiple_of(PART)
        && [blocks.first(), from.lane_stride].into_iter().all(|at| at.is_multiple_of(numbers))
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
    ($name:ident, $kind:ident, $scale:literal, $block:ident, $index:ident, $d:ident, $body:block) => {
        pub(super) struct $name;

        impl Read for $name {
            const KIND: BlockKind = BlockKind::$kind;
            const SCALE: usize = $scale;

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,fma")]
            unsafe fn part($block: *const u8, $index: usize, $d: f32) -> [__m512; 2] {
                let (_, $d) = ($index, _mm512_set1_ps($d));
                // SAFETY: all bytes that are read belong to the block, whose layout `weights/blocks.rs` has.
                unsafe { $body }
            }
        }
    };
}

reader!(Q40, Q4_0, 0, block, index, d, {
    let eight = _mm512_set1_epi32(8);
    nibbles(block.add(2)).map(|q| _mm512_mul_ps(floats(_mm512_sub_epi32(q, eight)), d))
});

reader!(Q41, Q4_1, 0, block, index, d, {
    let m = half(block.add(2));
    nibbles(block.add(4)).map(|q| _mm512_fmadd_ps(floats(q), d, m))
});

reader!(Q50, Q5_0, 0, block, index, d, {
    let sixteen = _mm512_set1_epi32(16);
    let [low, high] = nibbles(block.add(6));
    let fifth = !word(block.add(2));
    // Nibble + 16·bit − 16.
    let low = _mm512_mask_sub_epi32(low, fifth as __mmask16, low, sixteen);
    let high = _mm512_mask_sub_epi32(high, (fifth >> 16) as __mmask16, high, sixteen);
    [low, high].map(|q| _mm512_mul_ps(floats(q), d))
});

reader!(Q51, Q5_1, 0, block, index, d, {
    let (m, sixteen) = (half(block.add(2)), _mm512_set1_epi32(16));
    let [low, high] = nibbles(block.add(8));
    let fifth = word(block.add(4));
    let low = _mm512_mask_or_epi32(low, fifth as __mmask16, low, sixteen);
    let high = _mm512_mask_or_epi32(high, (fifth >> 16) as __mmask16, high, sixteen);
    [low, high].map(|q| _mm512_fmadd_ps(floats(q), d, m))
});

reader!(Q80, Q8_0, 0, block, index, d, {
    [2, 18].map(|at| {
        let bytes = _mm_loadu_si128(block.add(at).cast());
        _mm512_mul_ps(floats(_mm512_cvtepi8_epi32(bytes)), d)
    })
});

reader!(Q4K, Q4K, 0, block, index, d, {
    let (d, m) = scaled(block, index, d);
    four_bits(block.add(16), index).map(|q| _mm512_fmsub_ps(floats(q), d, m))
});

reader!(Q5K, Q5K, 0, block, index, d, {
    let (d, m) = scaled(block, index, d);
    let (bit, sixteen) = (_mm512_set1_epi32(1 << index), _mm512_set1_epi32(16));
    let high = [bytes(block.add(16)), bytes(block.add(32))];
    let mut q = four_bits(block.add(48), index);
    for (q, high) in q.iter_mut().zip(high) {
        *q = _mm512_mask_or_epi32(*q, _mm512_test_epi32_mask(high, bit), *q, sixteen);
    }
    q.map(|q| _mm512_fmsub_ps(floats(q), d, m))
});

reader!(Q6K, Q6K, 208, block, index, d, {
    // Two halves of 128 numbers, four parts each: 64 bytes of low nibbles, 32 of high pairs, 8 scales.
    let (part, quarter) = (index / 4, index % 4);
    let low = block.add(part * 64 + quarter % 2 * PART);
    let high = block.add(128 + part * PART);
    let scales = block.add(192 + part * 8 + quarter * 2);
    let [three, fifteen, thirty_two] = [3, 15, 32].map(|x| _mm512_set1_epi32(x));
    let (low_shift, high_shift) =
        (_mm512_set1_epi32(quarter as i32 / 2 * 4), _mm512_set1_epi32(quarter as i32 * 2));
    let q = |i: usize| {
        let low = _mm512_srlv_epi32(bytes(low.add(16 * i)), low_shift);
        let high = _mm512_srlv_epi32(bytes(high.add(16 * i)), high_shift);
        let q = _mm512_or_si512(
            _mm512_and_si512(low, fifteen),
            _mm512_slli_epi32::<4>(_mm512_and_si512(high, three)),
        );
        let scale = _mm512_set1_ps(f32::from(scales.add(i).cast::<i8>().read()));
        _mm512_mul_ps(_mm512_mul_ps(d, scale), floats(_mm512_sub_epi32(q, thirty_two)))
    };
    [q(0), q(1)]
});

reader!(Nf4, Nf4, 0, block, index, d, {
    let _ = d;
    let magnitude = _mm512_set1_ps(f32::from_bits(word(block)));
    let codes = _mm512_loadu_ps(NF4_CODES.as_ptr());
    let bytes = _mm_loadu_si128(block.add(4 + index * PART / 2).cast());
    // The first of two is in the high bits.
    let fifteen = _mm_set1_epi8(15);
    let (first, second) = (_mm_and_si128(_mm_srli_epi16::<4>(bytes), fifteen), _mm_and_si128(bytes, fifteen));
    [_mm_unpacklo_epi8(first, second), _mm_unpackhi_epi8(first, second)]
        .map(|q| _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(q), codes), magnitude))
});

#[inline]
#[target_feature(enable = "avx512f")]
fn floats(x: __m512i) -> __m512 {
    _mm512_cvtepi32_ps(x)
}

/// A half, in all lanes.
///
/// # Safety
/// It must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn half(at: *const u8) -> __m512 {
    // SAFETY: the caller guarantees this.
    _mm512_cvtph_ps(_mm256_set1_epi16(unsafe { at.cast::<i16>().read_unaligned() }))
}

/// A word.
///
/// # Safety
/// It must be readable.
#[inline]
unsafe fn word(at: *const u8) -> u32 {
    // SAFETY: the caller guarantees this.
    u32::from_le(unsafe { at.cast::<u32>().read_unaligned() })
}

/// 16 bytes as words.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn bytes(at: *const u8) -> __m512i {
    // SAFETY: the caller guarantees this.
    _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(at.cast()) })
}

/// The nibbles of 16 bytes: the low ones, then the high ones.
///
/// # Safety
/// The bytes must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn nibbles(at: *const u8) -> [__m512i; 2] {
    // SAFETY: the caller guarantees this.
    let both = unsafe { bytes(at) };
    [_mm512_and_si512(both, _mm512_set1_epi32(15)), _mm512_srli_epi32::<4>(both)]
}

/// Part `index` of nibbles that lie as in Q4_K: 32 bytes have the low ones of a part, then the high ones of the next.
///
/// # Safety
/// The bytes must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn four_bits(at: *const u8, index: usize) -> [__m512i; 2] {
    let shift = _mm512_set1_epi32(index as i32 % 2 * 4);
    [0, 16].map(|i| {
        // SAFETY: the caller guarantees this.
        let both = unsafe { bytes(at.add(index / 2 * PART + i)) };
        _mm512_and_si512(_mm512_srlv_epi32(both, shift), _mm512_set1_epi32(15))
    })
}

/// Scale and minimum of part `index` of a super-block, in all lanes.
///
/// # Safety
/// The 16 bytes before its numbers must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn scaled(block: *const u8, index: usize, d: __m512) -> (__m512, __m512) {
    // SAFETY: the caller guarantees this.
    let (m, packed) = unsafe { (half(block.add(2)), std::slice::from_raw_parts(block.add(4), 12)) };
    let (scale, minimum) = scale_and_minimum(packed, index);
    let times = |x, by: u8| _mm512_mul_ps(x, _mm512_set1_ps(f32::from(by)));
    (times(d, scale), times(m, minimum))
}
