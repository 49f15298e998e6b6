//! Packing: converts a strip of an operand, `width` lanes times a block of `k`, into one panel of kernel words.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::kernel::Kernel;
use super::operand::{Operand, Side};
use super::{direct, strips};

/// Packs lanes `first..first + width` over `k` into `to`, `[steps][width]` words. Lanes beyond the operand and the odd
/// half of a last pair are zero.
pub(super) fn panel(
    kernel: &Kernel,
    side: Side,
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    if !direct::panel(kernel, side, from, first, width, k.clone(), to) {
        strips::panel(kernel, side, from, first, width, k, to);
    }
}
