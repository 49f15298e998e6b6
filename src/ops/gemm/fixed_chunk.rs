//! Quantised weights in fixed point: chunks of 64 numbers as 16-bit integers times a scale, like those of `fixed`, but made
//! of the stored integers without numbers in f32.
//!
//! With `s` and `m` the scales and minima of a chunk's parts, and `q` up to `Q`, the scale of the chunk is `g / 5780`, where
//! `g` is the greatest of `|s|·Q` (with minima, of `|m|` and `|s·Q + m|`). An integer is `q` times `s` in units of that scale,
//! rounded to 13 bits or more, plus `m` in these units. Its error is at most one unit (with minima, two); both the
//! rounding of integers and that of scales have a root mean square of less than a third of a unit.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx512::mask;
use super::avx512_pack::{Strip, transpose};
use super::fixed::{magnitude, scales};
use super::operand::Operand;
pub(super) use super::quantised::LANES;
use super::quantised::{Column, PART, Read, Scales, of_kind};
use super::tile::CHUNK;
use crate::weights::{BlockKind, Blocks};

/// The greatest integer before it is rounded: two units less than the greatest of activations, so that the sum of a
/// chunk fits an i32.
const GREATEST: f32 = 5780.0;
const _: () = assert!(CHUNK as f64 * (GREATEST as f64 + 3.0) * 5793.0 < 2147483648.0);

/// A chunk of `k` of 16 lanes.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    /// Factors of each 16 numbers, twice in a word.
    factors: [[u32; LANES]; CHUNK / 16],
    /// Minima of each part, twice in a word.
    minima: [[u32; LANES]; CHUNK / PART],
    /// The block of the first lane that has each part, and the part's index in it.
    parts: [(*const u8, usize); CHUNK / PART],
    /// About where the first lane has each part.
    near: [*const u8; CHUNK / PART],
    /// Bytes from a block to that of the next lane.
    pitch: usize,
    whole: bool,
    /// The scales of the lanes.
    pub(super) scales: __m512,
}

impl Chunk {
    /// A chunk of no lanes.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn zero() -> Self {
        Self {
            factors: [[0; LANES]; CHUNK / 16],
            minima: [[0; LANES]; CHUNK / PART],
            parts: [(std::ptr::null(), 0); CHUNK / PART],
            near: [std::ptr::null(); CHUNK / PART],
            pitch: 0,
            whole: false,
            scales: _mm512_setzero_ps(),
        }
    }

    /// Reads the scales of `count` lanes, `stride` numbers apart, from number `at` on; of half a chunk if not `whole`.
    ///
    /// # Safety
    /// The processor must have AVX-512F, BW, DQ and VL. `at` must consist of whole parts, and `stride` of whole blocks of at
    /// most `i32::MAX / 16` bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    pub(super) unsafe fn read<R: Read>(
        &mut self,
        blocks: &Blocks,
        (at, stride): (usize, usize),
        count: usize,
        whole: bool,
    ) {
        let (bytes, (numbers, size)) = (blocks.bytes(), const { R::KIND.block() });
        // Where the first lane has each part, and the part's index in its block.
        let place = |index: usize| {
            let at = blocks.first() + at + index * PART;
            (at / numbers * size, at % numbers / PART)
        };
        let (first, second) = (place(0), place(usize::from(whole)));
        self.pitch = stride / numbers * size;
        self.whole = whole;
        let end = second.0 + count.saturating_sub(1) * self.pitch + size;
        assert!(count == 0 || count <= LANES && end <= bytes.len(), "lanes of a quantised weight");
        let block = |(start, _): (usize, usize)| bytes.as_ptr().wrapping_add(start);
        self.parts = [(block(first), first.1), (block(second), second.1)];
        let near = |(first, index): (*const u8, usize)| first.wrapping_add(index * PART * size / numbers);
        self.near = [near(self.parts[0]), near(self.parts[1])];
        let lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        let pitches = _mm512_mullo_epi32(lane, _mm512_set1_epi32(self.pitch as i32));
        let lanes = mask(count);
        let scales_of = |(first, index): (*const u8, usize)| {
            // SAFETY: the blocks are whole, inside the weight, and have `numbers / PART` parts.
            unsafe { R::scales(&Column { first, pitches, lanes }, index) }
        };
        let parts = [scales_of(self.parts[0]), scales_of(self.parts[1])];
        let greatest = _mm512_max_epi32(greatest::<R>(&parts[0]), greatest::<R>(&parts[1]));
        let (scales, inverse) = scales(greatest, GREATEST);
        self.scales = scales;
        let by = _mm512_mul_ps(inverse, _mm512_set1_ps(const { (1 << (15 - R::SHIFT)) as f32 }));
        for (i, of) in parts.iter().enumerate() {
            store(&mut self.factors[2 * i], doubled(_mm512_mul_ps(of.first, by)));
            if R::HALVES {
                store(&mut self.factors[2 * i + 1], doubled(_mm512_mul_ps(of.last, by)));
            }
            if R::MINIMA {
                store(&mut self.minima[i], doubled(_mm512_mul_ps(of.minimum, inverse)));
            }
        }
    }

    /// The integers of a lane as pairs, in order. Bytes that are `ahead` of them are brought into the cache.
    ///
    /// # Safety
    /// The lane must be one of those that were read with the same `R`, and the processor must have AVX-512F, BW, DQ and VL.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn integers<R: Read>(&self, lane: usize, ahead: usize) -> [__m512i; 2] {
        let part = |i: usize| {
            let (first, index) = self.parts[i];
            let block = first.wrapping_add(lane * self.pitch);
            _mm_prefetch::<_MM_HINT_T0>(self.near[i].wrapping_add(lane * self.pitch + ahead).cast());
            // SAFETY: the caller guarantees this.
            let q = unsafe { R::integers(block, index) };
            let mut factor = broadcast(self.factors[2 * i][lane]);
            if R::HALVES {
                factor = _mm512_mask_blend_epi64(0xf0, factor, broadcast(self.factors[2 * i + 1][lane]));
            }
            let product = _mm512_mulhrs_epi16(q, factor);
            if R::MINIMA { _mm512_add_epi16(product, broadcast(self.minima[i][lane])) } else { product }
        };
        [part(0), if self.whole { part(1) } else { _mm512_setzero_si512() }]
    }
}

/// The greatest magnitude that a part can have, as bits.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn greatest<R: Read>(of: &Scales) -> __m512i {
    let most = _mm512_set1_ps(R::MOST);
    if R::MINIMA {
        return _mm512_max_epi32(
            magnitude(of.minimum),
            magnitude(_mm512_fmadd_ps(of.first, most, of.minimum)),
        );
    }
    let first = magnitude(_mm512_mul_ps(of.first, most));
    if R::HALVES { _mm512_max_epi32(first, magnitude(_mm512_mul_ps(of.last, most))) } else { first }
}

/// Rounded numbers of 16 bits, twice in a word.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn doubled(x: __m512) -> __m512i {
    let integers = _mm512_cvtps_epi32(x);
    _mm512_mask_blend_epi16(0xaaaa_aaaa, integers, _mm512_slli_epi32::<16>(integers))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(word: u32) -> __m512i {
    _mm512_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(to: &mut [u32; LANES], words: __m512i) {
    // SAFETY: the array is one vector.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), words) };
}

/// Reduces each of 16 rows to one word, with fewer shuffles than a whole transposition. The order of the operations is
/// not that of the words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn folded(rows: [__m512i; 16], op: impl Fn(__m512i, __m512i) -> __m512i) -> __m512i {
    let zero = _mm512_setzero_si512();
    let (mut pairs, mut quads) = ([zero; 8], [zero; 4]);
    for (i, pair) in pairs.iter_mut().enumerate() {
        let (x, y) = (rows[2 * i], rows[2 * i + 1]);
        *pair = op(_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
    }
    for (i, quad) in quads.iter_mut().enumerate() {
        let (x, y) = (pairs[2 * i], pairs[2 * i + 1]);
        *quad = op(_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y));
    }
    let lanes =
        |x, y| op(_mm512_shuffle_i32x4::<0b1000_1000>(x, y), _mm512_shuffle_i32x4::<0b1101_1101>(x, y));
    lanes(lanes(quads[0], quads[1]), lanes(quads[2], quads[3]))
}

/// Packs like `pack::panel`, for an operand that `quantised::fits`.
pub(super) fn panel(
    blocks: &Blocks,
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    let (strip, at) = Strip::of(from, first, width, &k);
    let to = to.as_mut_ptr().cast();
    // SAFETY: fixed-point words are selected only where AVX-512F/BW/VL and VNNI are available; `direct::panel` checked the
    // size of the panel.
    unsafe { of_kind!(blocks.kind(), rows(blocks, &strip, at, to)) }
}

/// # Safety
/// `to` must hold the strip's whole panel, and the processor must have AVX-512F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
unsafe fn rows<R: Read>(blocks: &Blocks, strip: &Strip, at: usize, to: *mut u32) {
    let mut chunk = Chunk::zero();
    for lane in (0..strip.width).step_by(LANES) {
        let lanes = strip.lanes.saturating_sub(lane).min(LANES);
        let stored = mask((strip.width - lane).min(LANES));
        let mut to = to.wrapping_add(lane);
        for start in (0..strip.k).step_by(CHUNK) {
            let length = (strip.k - start).min(CHUNK);
            let at = (at + lane * strip.lane_stride + start, strip.lane_stride);
            // SAFETY: `quantised::fits` holds.
            unsafe { chunk.read::<R>(blocks, at, lanes, length == CHUNK) };
            let mut words = [[_mm512_setzero_si512(); LANES]; 2];
            let [lows, highs] = &mut words;
            for (lane, (to_low, to_high)) in lows.iter_mut().zip(highs).enumerate().take(lanes) {
                // SAFETY: the lane was read.
                [*to_low, *to_high] = unsafe { chunk.integers::<R>(lane, 0) };
            }
            for words in &words[..length / PART] {
                for column in transpose(*words) {
                    // SAFETY: the step and its lanes are inside the panel.
                    unsafe { _mm512_mask_storeu_epi32(to.cast(), stored, column) };
                    to = to.wrapping_add(strip.width);
                }
            }
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(to.cast(), stored, chunk.scales) };
            to = to.wrapping_add(strip.width);
        }
    }
}
