//! The part of an operand that becomes a panel, and reading it ahead of time, for the packing of x86.

use std::arch::x86_64::*;
use std::ops::Range;

use super::operand::Operand;

/// A strip of an operand: `lanes` lanes of a panel's `width`, with `k` elements each.
pub(super) struct Strip {
    pub(super) lanes: usize,
    pub(super) width: usize,
    pub(super) k: usize,
    pub(super) lane_stride: usize,
    pub(super) k_stride: usize,
}

impl Strip {
    /// Returns the lanes from `first` over `k`, and where they begin in the operand's numbers.
    pub(super) fn of(from: &Operand, first: usize, width: usize, k: &Range<usize>) -> (Self, usize) {
        let (lane_stride, k_stride) = (from.lane_stride, from.k_stride);
        let strip = Self { lanes: width.min(from.lanes - first), width, k: k.len(), lane_stride, k_stride };
        (strip, first * lane_stride + k.start * k_stride)
    }
}

/// Asks for the line of this element, which is read soon. Weights come from memory, and their rows are too short, or too far
/// apart, for the processor to notice a pattern.
#[inline]
pub(super) fn prefetch<T>(element: *const T) {
    // SAFETY: a prefetch accesses nothing; addresses outside the operand are ignored.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(element.cast()) }
}

/// How many rows of contiguous lanes ahead to ask for.
pub(super) const AHEAD: usize = 16;
