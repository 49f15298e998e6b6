//! Quantised weights in fixed point: the integers that `fixed` makes of their f32 numbers, with everything in registers
//! and the first-level cache.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx512::mask;
use super::avx512_pack::{Strip, transpose};
use super::fixed::scales;
use super::operand::Operand;
use super::quantised::{PART, Read, of_kind};
use super::tile::CHUNK;
use crate::weights::{BlockKind, Blocks};

/// Lanes that share vectors.
pub(super) const LANES: usize = 16;

/// A chunk of `k` of 16 lanes.
pub(super) struct Chunk {
    numbers: [[__m512; 4]; LANES],
    inverses: [f32; LANES],
    /// The scales of the lanes.
    pub(super) scales: __m512,
}

impl Chunk {
    /// A chunk of zeros.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn zero() -> Self {
        let zero = _mm512_setzero_ps();
        Self { numbers: [[zero; 4]; LANES], inverses: [0.0; LANES], scales: zero }
    }

    /// Reads `count` lanes, `stride` numbers apart, from number `at` on; half a chunk if not `whole`. Bytes that are
    /// `ahead` are brought into the cache.
    ///
    /// # Safety
    /// The processor must have AVX-512F, BW, DQ and VL. `at` must consist of whole
    /// parts, and `stride` of whole blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    pub(super) unsafe fn read<R: Read>(
        &mut self,
        blocks: &Blocks,
        (at, stride): (usize, usize),
        count: usize,
        whole: bool,
        ahead: usize,
    ) {
        let (bytes, (numbers, size)) = (blocks.bytes(), const { R::KIND.block() });
        // Where the first lane has each part, and the part's index in its block. `stride` consists of whole blocks.
        let place = |index: usize| {
            let at = blocks.first() + at + index * PART;
            (at / numbers * size, at % numbers / PART)
        };
        let (places, pitch) = ([place(0), place(usize::from(whole))], stride / numbers * size);
        let end = places[1].0 + count.saturating_sub(1) * pitch + size;
        assert!(count == 0 || count <= LANES && end <= bytes.len(), "lanes of a quantised weight");
        let block =
            |lane: usize, (start, _): (usize, usize)| bytes.as_ptr().wrapping_add(start + lane * pitch);
        let mut of_blocks = [[0f32; LANES]; 2];
        for (place, d) in places.iter().zip(&mut of_blocks) {
            let mut halves = [0u16; LANES];
            for (lane, half) in halves.iter_mut().enumerate().take(count) {
                let block = block(lane, *place);
                _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(ahead).cast());
                // SAFETY: a block has its scale there.
                *half = unsafe { block.add(R::SCALE).cast::<u16>().read_unaligned() };
            }
            // SAFETY: both arrays have 16 lanes.
            unsafe {
                let halves = _mm256_loadu_si256(halves.as_ptr().cast());
                _mm512_storeu_ps(d.as_mut_ptr(), _mm512_cvtph_ps(halves));
            }
        }
        let mut greatest = [_mm512_setzero_si512(); LANES];
        let lanes = self.numbers.iter_mut().zip(&mut greatest).take(count).enumerate();
        for (lane, (numbers, greatest)) in lanes {
            // SAFETY: the blocks are whole, and have `numbers / PART` parts.
            let [a, b] = unsafe { R::part(block(lane, places[0]), places[0].1, of_blocks[0][lane]) };
            let [c, d] = if whole {
                // SAFETY: as above.
                unsafe { R::part(block(lane, places[1]), places[1].1, of_blocks[1][lane]) }
            } else {
                [_mm512_setzero_ps(); 2]
            };
            // The greater magnitude of the two. All numbers of a part are NaN if its scale is, so that none is dropped.
            let most = |x, y| _mm512_castps_si512(_mm512_range_ps::<0b1011>(x, y));
            *greatest = _mm512_max_epi32(most(a, b), most(c, d));
            *numbers = [a, b, c, d];
        }
        let (scales, inverse) = scales(folded(greatest, |x, y| _mm512_max_epi32(x, y)));
        self.scales = scales;
        // SAFETY: `inverses` holds the 16 numbers.
        unsafe { _mm512_storeu_ps(self.inverses.as_mut_ptr(), inverse) };
    }

    /// The integers of a lane as pairs, in the order of [`PACKED`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn integers(&self, lane: usize) -> [__m512i; 2] {
        let by = _mm512_set1_ps(self.inverses[lane]);
        let [a, b, c, d] = self.numbers[lane].map(|x| _mm512_cvtps_epi32(_mm512_mul_ps(x, by)));
        [_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d)]
    }
}

/// Where the pairs of 32 numbers are after two vectors of 16 were narrowed into one.
const PACKED: [u64; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
/// The inverse of [`PACKED`].
const IN_ORDER: [u64; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Brings 16 pairs into the order of [`Chunk::integers`].
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn packed(pairs: __m512i) -> __m512i {
    permuted(&PACKED, pairs)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn permuted(order: &[u64; 8], pairs: __m512i) -> __m512i {
    // SAFETY: the order is one vector.
    _mm512_permutexvar_epi64(unsafe { _mm512_loadu_si512(order.as_ptr().cast()) }, pairs)
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
            unsafe { chunk.read::<R>(blocks, at, lanes, length == CHUNK, 0) };
            let mut words = [[_mm512_setzero_si512(); LANES]; 2];
            let [lows, highs] = &mut words;
            for (lane, (to_low, to_high)) in lows.iter_mut().zip(highs).enumerate().take(lanes) {
                let [low, high] = chunk.integers(lane);
                *to_low = permuted(&IN_ORDER, low);
                *to_high = permuted(&IN_ORDER, high);
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
