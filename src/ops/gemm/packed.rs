//! The left operand of products, packed once for all products that share it.

use rayon::prelude::*;

use super::isa::Isa;
use super::kernel::Kernel;
use super::lines::{LINE, aligned};
use super::operand::{Operand, Precision, Side};
use super::pack;
use super::plan::Cut;
use super::tile::Word;

/// Number of words that one thread packs in the time it takes to start several.
const ALONE: usize = if cfg!(miri) { 1 << 8 } else { 1 << 13 };

/// `A [m, k]` in panels of kernel words. An input that several weights multiply is packed (and rounded) once.
pub struct Packed {
    words: Vec<u32>,
    /// Where the panels begin: at the first cache line of `words`.
    start: usize,
    pub(super) cut: Cut,
    pub(super) lanes: usize,
    pub(super) isa: Isa,
    pub(super) precision: Precision,
}

/// The destination of the panels while they are written, each by one thread.
struct Target(*mut u32);

// SAFETY: panels of different (block, row) are disjoint parts of the buffer.
unsafe impl Sync for Target {}

impl Target {
    /// Returns panel `row` of a block.
    ///
    /// # Safety
    /// `cut` must be that of the buffer, and no other thread may hold this panel.
    #[allow(clippy::mut_from_ref, reason = "each panel is handed out once")]
    unsafe fn panel(&self, cut: &Cut, block: usize, row: usize) -> &mut [std::mem::MaybeUninit<u32>] {
        // SAFETY: `Cut::offset` keeps every panel inside the `Cut::size` words.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.0.add(cut.offset(block, row)).cast(),
                cut.steps(block) * cut.mr,
            )
        }
    }
}

impl Packed {
    /// Packs `a` for products of this precision, using all threads.
    pub fn new(a: &Operand, precision: Precision) -> Self {
        Self::with(Isa::detected(), a, precision, true)
    }

    /// Like [`Packed::new`], on the calling thread only, for callers that are themselves parallel.
    pub fn serial(a: &Operand, precision: Precision) -> Self {
        Self::with(Isa::detected(), a, precision, false)
    }

    pub(super) fn with(isa: Isa, a: &Operand, precision: Precision, parallel: bool) -> Self {
        // The rows of a panel do not depend on the other operand.
        let kernel = Kernel::select(isa, precision, a.lanes, usize::MAX);
        let cut = Cut::new(&kernel, a.lanes, a.k);
        let size = cut.size();
        let mut words: Vec<u32> = Vec::with_capacity(size + LINE);
        let (start, panels) = aligned(words.spare_capacity_mut());
        let target = Target(panels.as_mut_ptr().cast());
        let pack = |row: usize| {
            for block in 0..cut.blocks() {
                // SAFETY: each row of panels is packed by exactly one call.
                let panel = unsafe { target.panel(&cut, block, row) };
                pack::panel(&kernel, Side::Left, a, row * cut.mr, cut.mr, cut.k_range(block), panel);
            }
        };
        if parallel && size > ALONE {
            let together = (ALONE / (size / cut.panels)).max(1);
            (0..cut.panels).into_par_iter().with_max_len(together).for_each(pack);
        } else {
            (0..cut.panels).for_each(pack);
        }
        // SAFETY: `aligned` wrote the words before the panels; the panels partition the others, and `pack::panel` writes
        // all of each panel.
        unsafe { words.set_len(start + size) };
        Self { words, start, cut, lanes: a.lanes, isa, precision }
    }

    /// Returns the number of rows `m`.
    pub fn rows(&self) -> usize {
        self.lanes
    }

    /// Whether packing rounded to bf16.
    pub fn rounded(&self) -> bool {
        matches!(self.cut.word, Word::Bf16 | Word::Tiles | Word::Quads)
    }

    /// Returns panel `row` of a block of `k`.
    pub(super) fn panel(&self, block: usize, row: usize) -> &[u32] {
        &self.words[self.start + self.cut.offset(block, row)..][..self.cut.steps(block) * self.cut.mr]
    }
}
