//! Rows of quantised weights, as the lanes of a product.

use super::operand::Operand;
use crate::weights::{Blocks, Elements};

/// Numbers that are read at once.
pub(super) const PART: usize = 32;

/// Rows of a quantised weight, one for each lane.
pub(super) struct Rows<const N: usize> {
    /// Where the rows begin; those that are missing begin where the last does.
    starts: [*const u8; N],
}

impl<const N: usize> Rows<N> {
    /// `count` rows of `stride` numbers from row `first` on, of which the first `length` numbers may be read.
    ///
    /// # Panics
    /// If there are none, more than `N`, or they reach beyond the weight.
    pub(super) fn of(blocks: &Blocks, first: usize, stride: usize, count: usize, length: usize) -> Self {
        let (bytes, (numbers, size)) = (blocks.bytes(), blocks.kind().block());
        let place = |row: usize| (blocks.first() + row * stride) / numbers * size;
        assert!((1..=N).contains(&count), "{count} rows of a quantised weight");
        let last = first + count - 1;
        assert!(place(last) + length.div_ceil(numbers) * size <= bytes.len(), "rows of a quantised weight");
        Self {
            starts: std::array::from_fn(|lane| bytes.as_ptr().wrapping_add(place(last.min(first + lane)))),
        }
    }

    /// Where the row of a lane begins.
    #[inline]
    pub(super) fn start(&self, lane: usize) -> *const u8 {
        self.starts[lane]
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
