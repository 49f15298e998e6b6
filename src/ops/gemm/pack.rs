//! Packing: a strip of an operand, `width` lanes times a block of `k`, becomes one panel of kernel words.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::kernel::Kernel;
use super::{Elements, Operand, blocks};

/// Packs lanes `first..first + width` over `k` into `to`, `[steps][width]` words. Lanes beyond the operand and the odd
/// half of a last pair are zero.
pub(super) fn panel(
    kernel: &Kernel,
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    assert_eq!(to.len(), k.len().div_ceil(kernel.k_per_step) * width, "size of a panel");
    let contiguous = from.k_stride == 1 || from.lane_stride == 1;
    if let (Elements::Blocks(quantised), true) = (from.data, contiguous) {
        return blocks::panel(kernel, (from, quantised), first, width, k, to);
    }
    let pairs = kernel.k_per_step == 2;
    #[cfg(target_arch = "x86_64")]
    if kernel.wide && super::avx512::panel(pairs, from, first, width, k.clone(), to) {
        return;
    }
    let lanes = width.min(from.lanes - first);
    for (step, words) in to.chunks_exact_mut(width).enumerate() {
        let at = k.start + step * kernel.k_per_step;
        for (lane, word) in words.iter_mut().enumerate() {
            let value =
                |k_at: usize| if lane < lanes && k_at < k.end { load(from, first + lane, k_at) } else { 0.0 };
            word.write(if pairs { pair(value(at), value(at + 1)) } else { value(at).to_bits() });
        }
    }
}

/// Two neighbours in `k` as one word, the earlier in the low half.
fn pair(low: f32, high: f32) -> u32 {
    u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
}

fn load(from: &Operand, lane: usize, k: usize) -> f32 {
    from.data.get(lane * from.lane_stride + k * from.k_stride)
}
