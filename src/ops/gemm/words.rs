//! Packing of words that hold the numbers themselves, widened or rounded.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::kernel::Kernel;
use super::operand::{Operand, Side, load};
use super::tile::{Word, pair};

/// Like `pack::panel`, for such words.
pub(super) fn panel(
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
    // The steps after these only fill up a tile, and are zero.
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
