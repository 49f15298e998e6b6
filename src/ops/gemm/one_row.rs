//! Products of one row or a few, as in generation. They are bound by memory, so each weight is read once, where it is
//! stored, and no panel of it is written. The bits are those of the rows in a larger product.

use rayon::prelude::*;

use super::kernel::Kernel;
use super::operand::Operand;
use super::packed::Packed;
use super::tile::{CHUNK, Word};
use super::{amx_row, amx_rows, fixed_row, fixed_row_bf16, quantised_rows, row_chunks};
use crate::weights::Elements;

/// Outputs that are computed together.
const GROUP: usize = 32;

/// Weights per task.
const TASK: usize = 1 << 16;

/// Whether [`run`] computes this product.
pub(super) fn fits(kernel: &Kernel, a: &Packed, b: &Operand) -> bool {
    let rows = a.lanes > 0 && b.k_stride == 1;
    match (kernel.word, b.data) {
        // Rows that end within a tile would be read beyond their end.
        (Word::Tiles, Elements::Bf16(_)) => {
            rows && a.lanes <= amx_rows::MOST && b.lanes.is_multiple_of(GROUP) && b.k.is_multiple_of(32)
        }
        (Word::Fixed, Elements::Blocks(_)) => a.lanes == 1 && quantised_rows::fits(b),
        (Word::Fixed, Elements::Bf16(_)) => rows && a.lanes == 1,
        _ => false,
    }
}

/// Where the tasks write, each to its own outputs.
struct Target(*mut f32);

// SAFETY: see `Target::group`.
unsafe impl Sync for Target {}

impl Target {
    /// Returns the outputs of a group.
    fn group(&self, group: usize) -> *mut f32 {
        self.0.wrapping_add(group * GROUP)
    }
}

/// Writes `a·b` to rows `stride` apart from `out` on, or adds it.
///
/// # Safety
/// [`fits`] must hold, `a` and `b` must have the same `k`, and each of the `a.lanes` rows must have room for `b.lanes`
/// numbers, which no other thread may use.
pub(super) unsafe fn run(
    kernel: &Kernel,
    (out, stride): (*mut f32, usize),
    a: &Packed,
    b: &Operand,
    accumulate: bool,
    parallel: bool,
) {
    let target = Target(out);
    let columns = if a.lanes > 1 { amx_rows::columns(a) } else { Vec::new() };
    let mut last = [0; CHUNK / 2];
    let chunks = if kernel.word == Word::Fixed { row_chunks::chunks(a, &mut last) } else { Vec::new() };
    let groups = b.lanes.div_ceil(GROUP);
    let together = TASK.div_ceil(GROUP * b.k.max(1));
    let work = |task: usize| {
        for group in task * together..((task + 1) * together).min(groups) {
            let lanes = group * GROUP..((group + 1) * GROUP).min(b.lanes);
            let out = target.group(group);
            match b.data {
                // SAFETY: `fits` holds; the groups partition the outputs.
                Elements::Bf16(weights) if kernel.word == Word::Fixed => unsafe {
                    fixed_row_bf16::group(weights, &chunks, b, lanes, out, accumulate);
                },
                // SAFETY: as above.
                Elements::Bf16(weights) if a.lanes == 1 => unsafe {
                    amx_row::group(weights, a, b, lanes, out, accumulate);
                },
                // SAFETY: as above.
                Elements::Bf16(weights) => unsafe {
                    amx_rows::group(weights, (a, &columns), b, lanes, (out, stride), accumulate);
                },
                // SAFETY: as above.
                Elements::Blocks(blocks) => unsafe {
                    fixed_row::group(&blocks, &chunks, b, lanes, out, accumulate);
                },
                Elements::F32(_) | Elements::F16(_) => {}
            }
        }
    };
    let tasks = groups.div_ceil(together);
    if parallel && tasks > 1 {
        (0..tasks).into_par_iter().with_max_len(1).for_each(work);
    } else {
        (0..tasks).for_each(work);
    }
}
