//! Packing: a strip of an operand, `width` lanes times a block of `k`, becomes one panel of kernel words.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::kernel::{Kernel, Word};
use super::{Elements, Operand, strips};

/// Which operand a panel is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// `A`.
    Left,
    /// `B`.
    Right,
}

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
    assert_eq!(to.len(), kernel.word.steps(k.len()) * width, "size of a panel");
    let contiguous = from.k_stride == 1 || from.lane_stride == 1;
    match (from.data, kernel.word) {
        #[cfg(target_arch = "x86_64")]
        (Elements::F32(x), Word::Fixed) if contiguous => {
            return super::fixed::panel(x, from, first, width, k, to);
        }
        #[cfg(target_arch = "x86_64")]
        (Elements::F32(_), Word::SplitTiles) if contiguous => {
            return super::amx_pack::split(kernel, side, from, first, width, k, to);
        }
        (_, Word::Fixed | Word::SplitTiles) => return strips::panel(kernel, side, from, first, width, k, to),
        (Elements::Blocks(_), _) if contiguous => {
            return strips::panel(kernel, side, from, first, width, k, to);
        }
        _ => {}
    }
    words(kernel, side, from, first, width, k, to);
}

/// As [`panel`], of words that hold the numbers themselves, widened or rounded.
pub(super) fn words(
    kernel: &Kernel,
    side: Side,
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    #[cfg(target_arch = "x86_64")]
    if kernel.word.tiled() && side == Side::Left {
        return super::amx_pack::left(from, first, width, k, to);
    }
    let _ = side;
    // Beyond these, steps that fill a tile are zero.
    let held = if kernel.word.tiled() { k.len().div_ceil(2) * width } else { to.len() };
    let (to, rest) = to.split_at_mut(held);
    rest.fill(MaybeUninit::new(0));
    let pairs = kernel.word == Word::Bf16 || kernel.word.tiled();
    #[cfg(target_arch = "x86_64")]
    if kernel.wide && super::avx512_pack::panel(pairs, from, first, width, k.clone(), to) {
        return;
    }
    let k_per_step = if pairs { 2 } else { 1 };
    let lanes = width.min(from.lanes - first);
    for (step, words) in to.chunks_exact_mut(width).enumerate() {
        let at = k.start + step * k_per_step;
        for (lane, word) in words.iter_mut().enumerate() {
            let value =
                |k_at: usize| if lane < lanes && k_at < k.end { load(from, first + lane, k_at) } else { 0.0 };
            word.write(if pairs { pair(value(at), value(at + 1)) } else { value(at).to_bits() });
        }
    }
}

/// Two neighbours in `k` as one word, the earlier in the low half.
pub(super) fn pair(low: f32, high: f32) -> u32 {
    u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
}

/// Number `k` of a lane, widened.
pub(super) fn load(from: &Operand, lane: usize, k: usize) -> f32 {
    from.data.get(lane * from.lane_stride + k * from.k_stride)
}
