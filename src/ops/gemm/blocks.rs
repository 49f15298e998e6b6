//! Packing quantised weights: a strip is dequantised into a few kilobytes that stay in the first-level cache, and packed
//! from there as f32 numbers are. No wider copy of a weight than that ever exists.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::kernel::Kernel;
use super::{Elements, Operand, pack};
use crate::ops::simd::vectorised;
use crate::weights::Blocks;

/// Elements of `k` that are dequantised at once: 32 lanes of them are 16 kB.
const SPAN: usize = 128;

thread_local! {
    static STRIP: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// As [`pack::panel`], for an operand of `blocks` that is contiguous along `k` or along its lanes.
pub(super) fn panel(
    kernel: &Kernel,
    (from, blocks): (&Operand, Blocks),
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    let lanes = width.min(from.lanes - first);
    let by_row = from.k_stride == 1;
    STRIP.with_borrow_mut(|strip| {
        for (part, to) in to.chunks_mut(SPAN / kernel.k_per_step * width).enumerate() {
            let start = k.start + part * SPAN;
            let length = SPAN.min(k.end - start);
            let at = first * from.lane_stride + start * from.k_stride;
            strip.resize(lanes * length, 0.0);
            let f32s = if by_row {
                lines(blocks, at, from.lane_stride, length, strip);
                Operand::by_row(Elements::F32(strip), lanes, length)
            } else {
                lines(blocks, at, from.k_stride, lanes, strip);
                Operand::by_column(Elements::F32(strip), length, lanes)
            };
            pack::panel(kernel, &f32s, 0, width, 0..length, to);
        }
    });
}

vectorised! {
    /// Runs of `length` numbers that begin `stride` apart, from `at`.
    fn lines(blocks: Blocks<'_>, at: usize, stride: usize, length: usize, out: &mut [f32]) {
        let _ = FMA;
        for (i, line) in out.chunks_exact_mut(length).enumerate() {
            blocks.read(at + i * stride, line);
        }
    }
}
