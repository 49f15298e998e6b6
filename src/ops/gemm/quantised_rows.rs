//! Rows of quantised weights, as the lanes of a product.

use std::ops::Range;

use super::operand::Operand;
use crate::weights::{Blocks, Elements};

/// Numbers that are read at once.
pub(super) const PART: usize = 32;

/// Rows of a quantised weight, one for each lane.
pub(super) struct Rows {
    start: *const u8,
    /// Bytes from one row to the next.
    stride: usize,
}

impl Rows {
    /// The rows `lanes`, `stride` numbers apart, of which the first `length` numbers may be read.
    ///
    /// # Panics
    /// If they reach beyond the weight.
    pub(super) fn of(blocks: &Blocks, lanes: Range<usize>, stride: usize, length: usize) -> Self {
        let (bytes, (numbers, size)) = (blocks.bytes(), blocks.kind().block());
        let place = |row: usize| (blocks.first() + row * stride) / numbers * size;
        if let Some(last) = lanes.clone().last() {
            let end = place(last) + length.div_ceil(numbers) * size;
            assert!(end <= bytes.len(), "rows of a quantised weight");
        }
        Self { start: bytes.as_ptr().wrapping_add(place(lanes.start)), stride: stride / numbers * size }
    }

    /// Where a row begins.
    #[inline]
    pub(super) fn start(&self, lane: usize) -> *const u8 {
        self.start.wrapping_add(lane * self.stride)
    }
}

/// Whether the numbers of an operand are contiguous along `k` and consist of whole parts, and its lanes of whole blocks.
pub(super) fn fits(from: &Operand) -> bool {
    let Elements::Blocks(blocks) = from.data else { return false };
    let (numbers, _) = blocks.kind().block();
    from.k_stride == 1
        && from.k.is_multiple_of(PART)
        && [blocks.first(), from.lane_stride].into_iter().all(|at| at.is_multiple_of(numbers))
}

/// A word.
///
/// # Safety
/// It must be readable.
#[inline]
pub(super) unsafe fn word(at: *const u8) -> u32 {
    // SAFETY: the caller guarantees this.
    u32::from_le(unsafe { at.cast::<u32>().read_unaligned() })
}
