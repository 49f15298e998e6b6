//! Packing in one pass over the operand.

use std::mem::MaybeUninit;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use half::slice::HalfFloatSliceExt;

use super::kernel::Kernel;
#[cfg(target_arch = "x86_64")]
use super::kernel::Packing;
use super::operand::{Operand, Side};
use super::tile::Word;
use super::words;
use crate::weights::Elements;

/// Like `pack::panel`, for operands that are packed directly from storage. Returns `false`, with nothing packed, for
/// others.
pub(super) fn panel(
    kernel: &Kernel,
    side: Side,
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) -> bool {
    assert_eq!(to.len(), kernel.word.steps(k.len()) * width, "size of a panel");
    let contiguous = from.k_stride == 1 || from.lane_stride == 1;
    match (from.data, kernel.word) {
        #[cfg(target_arch = "x86_64")]
        (Elements::F32(x), Word::Fixed) if contiguous && kernel.packing == Packing::Avx2 => {
            super::fixed_pack_avx2::panel(x, from, first, width, k, to);
        }
        #[cfg(target_arch = "x86_64")]
        (Elements::Bf16(x), Word::Fixed) if contiguous && super::fixed_pack_avx2::fits(width) => {
            super::fixed_pack_avx2::panel(x.reinterpret_cast(), from, first, width, k, to);
        }
        #[cfg(target_arch = "x86_64")]
        (Elements::F32(x), Word::Fixed) if contiguous => super::fixed::panel(x, from, first, width, k, to),
        #[cfg(target_arch = "x86_64")]
        (Elements::F32(_), Word::SplitTiles) if contiguous => {
            super::split::panel(kernel, side, from, first, width, k, to);
        }
        (Elements::F32(x), Word::Digits) if contiguous => super::digits::panel(x, from, first, width, k, to),
        #[cfg(target_arch = "x86_64")]
        (Elements::Blocks(blocks), Word::Fixed) if super::quantised_rows::fits(from) => {
            if kernel.packing == Packing::Avx2 {
                super::fixed_chunk_avx2::panel(&blocks, from, first, width, k, to);
            } else {
                super::fixed_chunk_avx512::panel(&blocks, from, first, width, k, to);
            }
        }
        (_, Word::Fixed | Word::SplitTiles | Word::Digits) => return false,
        (Elements::Blocks(_), _) if contiguous => return false,
        (_, Word::Quads) => super::quads::panel(from, first, width, k, to),
        _ => words::panel(kernel, side, from, first, width, k, to),
    }
    true
}
