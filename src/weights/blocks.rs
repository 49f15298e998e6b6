//! Numbers in quantised blocks, as ggml lays them out (`ggml-quants.c`, `dequantize_row_*`), 32 numbers at a time.
//!
//! Every type consists of chunks of 32 numbers that can be read separately: a block of 32 is one, a super-block of 256 is
//! eight. The arithmetic is that of ggml, operation by operation, so that the numbers have the same bits.

use half::f16;

/// Numbers in a chunk.
pub const CHUNK: usize = 32;

/// The numbers of NF4's codes: quantiles of the normal distribution.
pub const NF4_CODES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The quantisations that are supported for computing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockKind {
    /// 4 bits, one scale for 32.
    Q4_0,
    /// 4 bits, scale and minimum for 32.
    Q4_1,
    /// 5 bits, one scale for 32.
    Q5_0,
    /// 5 bits, scale and minimum for 32.
    Q5_1,
    /// 8 bits, one scale for 32.
    Q8_0,
    /// 4 bits, 6-bit scales and minima for 32, scaled again for 256.
    Q4K,
    /// 5 bits, as [`BlockKind::Q4K`].
    Q5K,
    /// 6 bits, 8-bit scales for 16, scaled again for 256.
    Q6K,
    /// 4 bits, one magnitude for 64; made by bitsandbytes, and never stored in a file.
    Nf4,
}

impl BlockKind {
    /// All that files can have.
    pub const ALL: &[Self] =
        &[Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q8_0, Self::Q4K, Self::Q5K, Self::Q6K];

    /// ggml's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Nf4 => "NF4",
        }
    }

    /// Numbers and bytes of a block.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
            Self::Nf4 => (64, 36),
        }
    }
}

/// A borrowed slice of quantised numbers, which may begin and end within a block.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    kind: BlockKind,
    /// Whole blocks.
    bytes: &'a [u8],
    /// Numbers of the first block before the slice.
    start: usize,
    len: usize,
}

impl<'a> Blocks<'a> {
    /// All numbers of whole blocks; bytes after the last whole block are ignored.
    pub fn new(kind: BlockKind, bytes: &'a [u8]) -> Self {
        let (numbers, size) = kind.block();
        Self { kind, bytes, start: 0, len: bytes.len() / size * numbers }
    }

    /// The type of quantisation.
    pub fn kind(&self) -> BlockKind {
        self.kind
    }

    /// The whole blocks.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The index of the first number, counted from the first of the whole blocks.
    pub fn first(&self) -> usize {
        self.start
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The numbers of `range`.
    ///
    /// # Panics
    /// If the range is out of bounds.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} numbers", self.len);
        Self { start: self.start + range.start, len: range.len(), ..*self }
    }

    /// Dequantises numbers `from..from + out.len()`. Inlined, so that it is compiled with the caller's vector instructions.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[inline(always)]
    pub fn read(&self, from: usize, out: &mut [f32]) {
        assert!(from + out.len() <= self.len, "{} numbers from {from} of {}", out.len(), self.len);
        let first = self.start + from;
        match self.kind {
            BlockKind::Q4_0 => run::<Q40>(self.bytes, first, out, 32, 18),
            BlockKind::Q4_1 => run::<Q41>(self.bytes, first, out, 32, 20),
            BlockKind::Q5_0 => run::<Q50>(self.bytes, first, out, 32, 22),
            BlockKind::Q5_1 => run::<Q51>(self.bytes, first, out, 32, 24),
            BlockKind::Q8_0 => run::<Q80>(self.bytes, first, out, 32, 34),
            BlockKind::Q4K => run::<Q4K>(self.bytes, first, out, 256, 144),
            BlockKind::Q5K => run::<Q5K>(self.bytes, first, out, 256, 176),
            BlockKind::Q6K => run::<Q6K>(self.bytes, first, out, 256, 210),
            BlockKind::Nf4 => run::<Nf4>(self.bytes, first, out, 64, 36),
        }
    }
}

type Chunk = [f32; CHUNK];

/// How a type of quantisation is decoded. A type and not a function value, which the compiler may leave as a call, out
/// of reach of the caller's vector instructions.
trait Decode {
    /// Dequantises chunk `index` of a block.
    fn chunk(block: &[u8], index: usize, out: &mut Chunk);
}

macro_rules! decoded {
    ($($name:ident by $function:ident,)*) => {$(
        struct $name;

        impl Decode for $name {
            #[inline(always)]
            fn chunk(block: &[u8], index: usize, out: &mut Chunk) {
                $function(block, index, out);
            }
        }
    )*};
}
decoded! {
    Q40 by q4_0,
    Q41 by q4_1,
    Q50 by q5_0,
    Q51 by q5_1,
    Q80 by q8_0,
    Q4K by q4_k,
    Q5K by q5_k,
    Q6K by q6_k,
    Nf4 by nf4,
}

/// Numbers from `first`, chunk by chunk; a chunk that is needed in part is dequantised separately.
#[inline(always)]
fn run<D: Decode>(bytes: &[u8], first: usize, out: &mut [f32], numbers: usize, size: usize) {
    let mut at = first;
    let mut rest = out;
    while !rest.is_empty() {
        let block = &bytes[at / numbers * size..][..size];
        let (index, skipped) = (at % numbers / CHUNK, at % CHUNK);
        let count = (CHUNK - skipped).min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        match <&mut Chunk>::try_from(&mut *now) {
            Ok(whole) => D::chunk(block, index, whole),
            Err(_) => {
                let mut aside = [0.0; CHUNK];
                D::chunk(block, index, &mut aside);
                now.copy_from_slice(&aside[skipped..skipped + count]);
            }
        }
        at += count;
        rest = later;
    }
}

/// A half at the start of `bytes`.
#[inline(always)]
fn half(bytes: &[u8]) -> f32 {
    let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
    if bits & 0x7c00 == 0x7c00 {
        return f16::from_bits(bits).to_f32();
    }
    // Exponent and mantissa in an f32's place, times 2^112 for the difference of biases: exact, subnormals too.
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
}

/// The nibbles of 16 bytes: the low ones, then the high ones.
#[inline(always)]
fn nibbles(bytes: &[u8]) -> [u8; CHUNK] {
    let bytes = &bytes[..16];
    let mut out = [0; CHUNK];
    for i in 0..16 {
        out[i] = bytes[i] & 15;
        out[i + 16] = bytes[i] >> 4;
    }
    out
}

#[inline(always)]
fn q4_0(block: &[u8], _: usize, out: &mut Chunk) {
    let (d, q) = (half(block), nibbles(&block[2..]));
    for i in 0..CHUNK {
        out[i] = (i32::from(q[i]) - 8) as f32 * d;
    }
}

#[inline(always)]
fn q4_1(block: &[u8], _: usize, out: &mut Chunk) {
    let (d, m, q) = (half(block), half(&block[2..]), nibbles(&block[4..]));
    for i in 0..CHUNK {
        out[i] = f32::from(q[i]) * d + m;
    }
}

/// Nibbles with a fifth bit each, bit `i` of a word of 32.
#[inline(always)]
fn five_bits(high: &[u8], low: &[u8]) -> [i32; CHUNK] {
    let (high, low) = (u32::from_le_bytes([high[0], high[1], high[2], high[3]]), nibbles(low));
    let mut out = [0; CHUNK];
    for i in 0..CHUNK {
        out[i] = i32::from(low[i]) | ((high >> i & 1) << 4).cast_signed();
    }
    out
}

#[inline(always)]
fn q5_0(block: &[u8], _: usize, out: &mut Chunk) {
    let (d, q) = (half(block), five_bits(&block[2..6], &block[6..]));
    for i in 0..CHUNK {
        out[i] = (q[i] - 16) as f32 * d;
    }
}

#[inline(always)]
fn q5_1(block: &[u8], _: usize, out: &mut Chunk) {
    let (d, m, q) = (half(block), half(&block[2..]), five_bits(&block[4..8], &block[8..]));
    for i in 0..CHUNK {
        out[i] = q[i] as f32 * d + m;
    }
}

#[inline(always)]
fn q8_0(block: &[u8], _: usize, out: &mut Chunk) {
    let (d, q) = (half(block), &block[2..34]);
    for i in 0..CHUNK {
        out[i] = f32::from(q[i].cast_signed()) * d;
    }
}

/// Scale and minimum `index` of eight, 6 bits each in 12 bytes (`get_scale_min_k4`).
#[inline(always)]
fn scale_and_minimum(packed: &[u8], index: usize) -> (u8, u8) {
    if index < 4 {
        return (packed[index] & 63, packed[index + 4] & 63);
    }
    let (low, high) = (packed[index + 4], packed[index - 4] >> 6);
    (low & 15 | high << 4, low >> 4 | packed[index] >> 6 << 4)
}

#[inline(always)]
fn q4_k(block: &[u8], index: usize, out: &mut Chunk) {
    let (scale, minimum) = scale_and_minimum(&block[4..16], index);
    let (d, m) = (half(block) * f32::from(scale), half(&block[2..]) * f32::from(minimum));
    let (q, shift) = (&block[16 + index / 2 * CHUNK..][..CHUNK], index as u32 % 2 * 4);
    for i in 0..CHUNK {
        out[i] = d * f32::from(q[i] >> shift & 15) - m;
    }
}

#[inline(always)]
fn q5_k(block: &[u8], index: usize, out: &mut Chunk) {
    let (scale, minimum) = scale_and_minimum(&block[4..16], index);
    let (d, m) = (half(block) * f32::from(scale), half(&block[2..]) * f32::from(minimum));
    let (q, shift) = (&block[48 + index / 2 * CHUNK..][..CHUNK], index as u32 % 2 * 4);
    let high = &block[16..48];
    for i in 0..CHUNK {
        out[i] = d * f32::from(q[i] >> shift & 15 | (high[i] >> index & 1) << 4) - m;
    }
}

#[inline(always)]
fn nf4(block: &[u8], index: usize, out: &mut Chunk) {
    let magnitude = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    let codes = &block[4 + index * CHUNK / 2..][..CHUNK / 2];
    for i in 0..CHUNK {
        // The first of two is in the high bits.
        out[i] = NF4_CODES[usize::from(codes[i / 2] >> (4 * (1 - i % 2)) & 15)] * magnitude;
    }
}

#[inline(always)]
fn q6_k(block: &[u8], index: usize, out: &mut Chunk) {
    // Two halves of 128 numbers, four chunks each: 64 bytes of low nibbles, 32 of high pairs, 8 scales.
    let (half_block, quarter) = (index / 4, index % 4);
    let low = &block[half_block * 64 + quarter % 2 * CHUNK..][..CHUNK];
    let high = &block[128 + half_block * CHUNK..][..CHUNK];
    let scales = &block[192 + half_block * 8 + quarter * 2..][..2];
    let (d, low_shift, high_shift) = (half(&block[208..]), quarter as u32 / 2 * 4, quarter as u32 * 2);
    let d = [d * f32::from(scales[0].cast_signed()), d * f32::from(scales[1].cast_signed())];
    for i in 0..CHUNK {
        let q = low[i] >> low_shift & 15 | (high[i] >> high_shift & 3) << 4;
        out[i] = d[i / 16] * (i32::from(q) - 32) as f32;
    }
}
