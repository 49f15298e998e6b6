//! How a product is cut into panels, blocks of `k`, and tasks.

use std::ops::Range;

use super::Operand;
use super::kernel::Kernel;
use super::pack;

/// Packed columns of a task that fit the L2 cache beside the panel of `A`.
const PANELS_PER_TASK: usize = 8;

/// The cuts of one product. Those of `k` follow from `k` and the kernel alone (batch invariance).
pub(super) struct Plan {
    pub(super) m: usize,
    pub(super) n: usize,
    k: usize,
    mr: usize,
    /// Elements of `k` in a block; a whole number of steps.
    kc: usize,
    k_per_step: usize,
    panels_m: usize,
    panels_n: usize,
    tasks_m: usize,
    tasks_n: usize,
}

impl Plan {
    pub(super) fn new(kernel: &Kernel, m: usize, n: usize, k: usize, threads: usize) -> Self {
        let blocks = k.div_ceil(kernel.max_kc);
        // A multiple of 32 keeps the vectorised packing on whole vectors.
        let kc = k.div_ceil(blocks).next_multiple_of(32);
        let (panels_m, panels_n) = (m.div_ceil(kernel.mr), n.div_ceil(kernel.nr));
        // As many column tasks as keep a task's panels in cache, in a multiple of the threads.
        let fit = panels_n.div_ceil(PANELS_PER_TASK).next_multiple_of(threads);
        let tasks_n = fit.min(panels_n);
        // Too few columns for the threads (thin products): cut the rows as well.
        let wanted = if tasks_n >= threads { 1 } else { (2 * threads).div_ceil(tasks_n) };
        Self {
            m,
            n,
            k,
            mr: kernel.mr,
            kc,
            k_per_step: kernel.k_per_step,
            panels_m,
            panels_n,
            tasks_m: wanted.min(panels_m),
            tasks_n,
        }
    }

    pub(super) fn tasks(&self) -> usize {
        self.tasks_m * self.tasks_n
    }

    /// Row panels and column panels of a task; together the tasks partition the output.
    pub(super) fn ranges(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let share =
            |index: usize, parts: usize, total: usize| index * total / parts..(index + 1) * total / parts;
        (
            share(task / self.tasks_n, self.tasks_m, self.panels_m),
            share(task % self.tasks_n, self.tasks_n, self.panels_n),
        )
    }

    pub(super) fn k_blocks(&self) -> usize {
        self.k.div_ceil(self.kc)
    }

    pub(super) fn k_range(&self, block: usize) -> Range<usize> {
        block * self.kc..((block + 1) * self.kc).min(self.k)
    }

    /// Kernel steps of a block; an odd last element is paired with zero.
    pub(super) fn steps(&self, block: usize) -> usize {
        self.k_range(block).len().div_ceil(self.k_per_step)
    }

    pub(super) fn panels_a(&self) -> usize {
        self.panels_m
    }

    /// Words of all packed panels of `A`.
    pub(super) fn size_a(&self) -> usize {
        (0..self.k_blocks()).map(|block| self.steps(block)).sum::<usize>() * self.panels_m * self.mr
    }

    /// Where panel `row` of `A` for a block of `k` begins.
    pub(super) fn offset_a(&self, block: usize, row: usize) -> usize {
        let before = block * self.kc / self.k_per_step;
        (before * self.panels_m + row * self.steps(block)) * self.mr
    }

    /// Packs panel `row` of `A`, all blocks of `k`, into `to` (at least [`Plan::size_a`] words).
    pub(super) fn pack_a(&self, kernel: &Kernel, a: &Operand, row: usize, to: *mut u32) {
        for block in 0..self.k_blocks() {
            let size = self.steps(block) * self.mr;
            // SAFETY: panels of different (block, row) are disjoint parts of the `size_a` words behind `to`.
            let panel =
                unsafe { std::slice::from_raw_parts_mut(to.add(self.offset_a(block, row)).cast(), size) };
            pack::panel(kernel, a, row * self.mr, self.mr, self.k_range(block), panel);
        }
    }

    /// Makes room for `size` words without initialising them.
    pub(super) fn reserve(&self, panels: &mut Vec<u32>, size: usize) {
        panels.clear();
        panels.reserve(size);
    }
}
