//! Packing of operands that no vector code packs directly, mainly quantised weights. A strip is widened into a few
//! kilobytes that stay in the first-level cache, and packed from there like f32 numbers. No larger widened copy of a
//! weight ever exists.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::direct;
use super::kernel::Kernel;
use super::operand::{Operand, Side, load};
use crate::ops::simd::vectorised;
use crate::weights::{Blocks, Elements};

/// Elements of `k` widened at once, in whole fixed-point chunks; 32 lanes of them take 16 kB.
const SPAN: usize = 128;

thread_local! {
    static STRIP: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Like `pack::panel`, strip by strip.
pub(super) fn panel(
    kernel: &Kernel,
    side: Side,
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    let lanes = width.min(from.lanes - first);
    // The strip is laid out along the lanes only where the numbers are contiguous there.
    let by_row = from.k_stride == 1 || from.lane_stride != 1;
    STRIP.with_borrow_mut(|strip| {
        for (part, to) in to.chunks_mut(kernel.word.steps(SPAN) * width).enumerate() {
            let start = k.start + part * SPAN;
            let length = SPAN.min(k.end - start);
            let at = first * from.lane_stride + start * from.k_stride;
            strip.resize(lanes * length, 0.0);
            match from.data {
                Elements::Blocks(blocks) if from.k_stride == 1 => {
                    lines(blocks, at, from.lane_stride, length, strip);
                }
                Elements::Blocks(blocks) if !by_row => lines(blocks, at, from.k_stride, lanes, strip),
                _ => {
                    for (i, x) in strip.iter_mut().enumerate() {
                        let (lane, k) =
                            if by_row { (i / length, i % length) } else { (i % lanes, i / lanes) };
                        *x = load(from, first + lane, start + k);
                    }
                }
            }
            let f32s = if by_row {
                Operand::by_row(Elements::F32(strip), lanes, length)
            } else {
                Operand::by_column(Elements::F32(strip), length, lanes)
            };
            let packed = direct::panel(kernel, side, &f32s, 0, width, 0..length, to);
            assert!(packed, "contiguous f32 numbers are packed directly");
        }
    });
}

vectorised! {
    /// Reads runs of `length` numbers that begin `stride` apart, starting at `at`.
    fn lines(blocks: Blocks<'_>, at: usize, stride: usize, length: usize, out: &mut [f32]) {
        let _ = FMA;
        for (i, line) in out.chunks_exact_mut(length).enumerate() {
            blocks.read(at + i * stride, line);
        }
    }
}
