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
use super::avx512_pack::transpose;
use super::fixed::{magnitude, scales};
use super::operand::Operand;
pub(super) use super::quantised::LANES;
use super::quantised::{Column, Read, Scales, of_kind};
use super::quantised_rows::{PART, Rows};
use super::tile::CHUNK;
use crate::weights::{BlockKind, Blocks};

/// The greatest integer before it is rounded: two units less than the greatest of activations, so that the sum of a
/// chunk fits an i32.
pub(super) const GREATEST: f32 = 5780.0;
const _: () = assert!(CHUNK as f64 * (GREATEST as f64 + 3.0) * 5793.0 < 2147483648.0);

/// A chunk of `k` of 16 lanes.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    /// Factors of each 16 numbers, twice in a word.
    factors: [[u32; LANES]; CHUNK / 16],
    /// Minima of each part, twice in a word.
    minima: [[u32; LANES]; CHUNK / PART],
    /// Bytes from the beginning of a row to the block that has each part, and the part's index in it.
    parts: [(usize, usize); CHUNK / PART],
    /// Bytes from the beginning of a row to about the first number.
    near: usize,
    /// About the bytes of a lane.
    bytes: usize,
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
            parts: [(0, 0); CHUNK / PART],
            near: 0,
            bytes: 0,
            scales: _mm512_setzero_ps(),
        }
    }

    /// Reads the scales of the chunk that begins with number `at` of the rows, or of its first half if not `whole`.
    ///
    /// # Safety
    /// The rows must be of this type and have the numbers, `at` must consist of whole parts, and the processor must have
    /// AVX-512F, BW, DQ and VL.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    pub(super) unsafe fn read<R: Read>(&mut self, rows: &Rows<LANES>, at: usize, whole: bool) {
        let (numbers, size) = const { R::KIND.block() };
        let place = |index: usize| {
            let at = at + index * PART;
            (at / numbers * size, at % numbers / PART)
        };
        self.parts = [place(0), place(usize::from(whole))];
        self.near = self.parts[0].0 + self.parts[0].1 * (PART * size / numbers);
        self.bytes = CHUNK * size / numbers;
        let parts = self.parts.map(|(block, index)| {
            // SAFETY: the blocks are whole, inside the weight, and have `numbers / PART` parts.
            unsafe { R::scales(&Column { rows, block }, index) }
        });
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

    /// The integers of a part of a lane as pairs, in order. `row` is where the lane's row begins.
    ///
    /// # Safety
    /// The part must be one of those that were read with the same `R`, and the processor must have AVX-512F, BW, DQ and VL.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn part<R: Read>(&self, row: *const u8, lane: usize, part: usize) -> __m512i {
        let (block, index) = self.parts[part];
        // SAFETY: the caller guarantees this.
        let q = unsafe { R::integers(row.wrapping_add(block), index) };
        let mut factor = broadcast(self.factors[2 * part][lane]);
        if R::HALVES {
            factor = _mm512_mask_blend_epi64(0xf0, factor, broadcast(self.factors[2 * part + 1][lane]));
        }
        let product = _mm512_mulhrs_epi16(q, factor);
        if R::MINIMA { _mm512_add_epi16(product, broadcast(self.minima[part][lane])) } else { product }
    }

    /// Brings bytes that are `ahead` of a row's beginning into the cache: of as many as the chunk has in all lanes, those of
    /// the same place among the chunks of a row. They follow each other from `lane` to lane.
    #[inline]
    pub(super) fn prefetch(&self, row: *const u8, ahead: usize, lane: usize) {
        let at = row.wrapping_add(ahead + LANES * self.near + lane * self.bytes);
        // SAFETY: prefetching reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
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

/// Packs like `pack::panel`, for an operand that `quantised_rows::fits`.
pub(super) fn panel(
    blocks: &Blocks,
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    let lanes = first..from.lanes.min(first + width);
    let to = to.as_mut_ptr().cast();
    // SAFETY: fixed-point words are selected only where AVX-512F/BW/VL and VNNI are available; `direct::panel` checked the
    // size of the panel.
    unsafe { of_kind!(blocks.kind(), rows(blocks, from.lane_stride, lanes, width, k, to)) }
}

/// # Safety
/// `to` must hold the whole panel, and the processor must have AVX-512F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
unsafe fn rows<R: Read>(
    blocks: &Blocks,
    stride: usize,
    lanes: Range<usize>,
    width: usize,
    k: Range<usize>,
    to: *mut u32,
) {
    let mut chunk = Chunk::zero();
    for lane in (0..width).step_by(LANES) {
        let count = lanes.len().saturating_sub(lane).min(LANES);
        let stored = mask((width - lane).min(LANES));
        let rows = (count > 0).then(|| Rows::of(blocks, lanes.start + lane, stride, count, k.end));
        let mut to = to.wrapping_add(lane);
        for start in k.clone().step_by(CHUNK) {
            let parts = (k.end - start).min(CHUNK) / PART;
            let mut words = [[_mm512_setzero_si512(); LANES]; CHUNK / PART];
            if let Some(rows) = &rows {
                // SAFETY: `quantised_rows::fits` holds, and the rows have `k.end` numbers.
                unsafe { chunk.read::<R>(rows, start, parts == CHUNK / PART) };
                for (part, words) in words.iter_mut().enumerate().take(parts) {
                    for (lane, words) in words.iter_mut().enumerate().take(count) {
                        // SAFETY: the part was read.
                        *words = unsafe { chunk.part::<R>(rows.start(lane), lane, part) };
                    }
                }
            }
            for words in &words[..parts] {
                for column in transpose(*words) {
                    // SAFETY: the step and its lanes are inside the panel.
                    unsafe { _mm512_mask_storeu_epi32(to.cast(), stored, column) };
                    to = to.wrapping_add(width);
                }
            }
            let scales = _mm512_maskz_mov_ps(mask(count), chunk.scales);
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(to.cast(), stored, scales) };
            to = to.wrapping_add(width);
        }
    }
}
