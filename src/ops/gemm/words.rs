//! Packing of words that hold the numbers themselves, widened or rounded.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::kernel::Kernel;
use super::operand::{Operand, Side, load};
use super::tile::{Word, pair};
use crate::weights::Elements;

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
    {
        use super::kernel::Packing;
        let packed = match kernel.packing {
            Packing::Avx512 => super::avx512_pack::panel(pairs, from, first, width, k.clone(), to),
            Packing::Avx2 => !pairs && super::avx2_pack::panel(from, first, width, k.clone(), to),
            Packing::Plain => false,
        };
        if packed {
            return;
        }
    }
    let lanes = width.min(from.lanes - first);
    if !pairs && (from.k_stride == 1 || from.lane_stride == 1) {
        let strip = (first..first + lanes, k.clone());
        match from.data {
            Elements::F32(x) => return widened(x, f32::to_bits, from, strip, width, to),
            Elements::Bf16(x) => {
                return widened(x, |x| u32::from(x.to_bits()) << 16, from, strip, width, to);
            }
            Elements::F16(_) | Elements::Blocks(_) => {}
        }
    }
    let k_per_step = if pairs { 2 } else { 1 };
    for (step, words) in to.chunks_exact_mut(width).enumerate() {
        let at = k.start + step * k_per_step;
        for (lane, word) in words.iter_mut().enumerate() {
            let value =
                |k_at: usize| if lane < lanes && k_at < k.end { load(from, first + lane, k_at) } else { 0.0 };
            word.write(if pairs { pair(value(at), value(at + 1)) } else { value(at).to_bits() });
        }
    }
}

/// Packs numbers as f32, for an operand that is contiguous along `k` or along its lanes.
fn widened<T: Copy>(
    x: &[T],
    bits: impl Fn(T) -> u32,
    from: &Operand,
    (lanes, k): (Range<usize>, Range<usize>),
    width: usize,
    to: &mut [MaybeUninit<u32>],
) {
    if from.k_stride == 1 {
        for lane in 0..width {
            let words = to[lane..].iter_mut().step_by(width);
            if lane < lanes.len() {
                let line = &x[(lanes.start + lane) * from.lane_stride + k.start..][..k.len()];
                words.zip(line).for_each(|(word, x)| {
                    word.write(bits(*x));
                });
            } else {
                words.for_each(|word| {
                    word.write(0);
                });
            }
        }
        return;
    }
    for (words, k) in to.chunks_exact_mut(width).zip(k) {
        let (held, rest) = words.split_at_mut(lanes.len());
        let row = &x[k * from.k_stride + lanes.start..][..lanes.len()];
        held.iter_mut().zip(row).for_each(|(word, x)| {
            word.write(bits(*x));
        });
        rest.fill(MaybeUninit::new(0));
    }
}
