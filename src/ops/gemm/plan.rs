//! How a product is partitioned: into blocks of `k`, panels of one operand, and tasks over the output.

use std::ops::Range;

use super::kernel::Kernel;
use super::tile::{CHUNK, Word};

/// Number of words of packed column panels that fit the L2 cache (1 MB and more) beside panels of `A` and `C`.
pub(super) const TASK_WORDS: usize = 1 << 17;

/// Number of words of one column panel such that the fewest panels of a task fit.
pub(super) const PANEL_WORDS: usize = TASK_WORDS / PANELS_PER_TASK.0;

/// Fewest and most column panels of a task: few enough for the cache, enough to use a panel of `A` often.
const PANELS_PER_TASK: (usize, usize) = (4, 8);

/// Maximum number of row panels of a task whose columns are multiplied as soon as they are packed.
pub(super) const FEW: usize = 6;

/// Fewest multiply-adds of the share of a task that another thread may take.
pub(super) const SHARE: usize = if cfg!(miri) { 1 << 9 } else { 1 << 19 };

/// The partition of `A [m, k]` for one kernel. Its blocks of `k` depend only on `k` and the kernel (batch invariance).
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) k: usize,
    /// Elements of `k` per block; a whole number of steps.
    kc: usize,
    pub(super) word: Word,
    /// Rows per panel.
    pub(super) mr: usize,
    pub(super) panels: usize,
}

impl Cut {
    pub(super) fn new(kernel: &Kernel, m: usize, k: usize) -> Self {
        let blocks = k.div_ceil(kernel.max_kc).max(1);
        // A multiple of 32 keeps the vectorised packing on whole vectors; a multiple of a chunk splits no chunk.
        let whole =
            if matches!(kernel.word, Word::Fixed | Word::SplitTiles | Word::Digits) { CHUNK } else { 32 };
        let kc = k.div_ceil(blocks).next_multiple_of(whole).max(whole);
        Self { k, kc, word: kernel.word, mr: kernel.mr, panels: m.div_ceil(kernel.mr) }
    }

    pub(super) fn blocks(&self) -> usize {
        self.k.div_ceil(self.kc)
    }

    pub(super) fn k_range(&self, block: usize) -> Range<usize> {
        block * self.kc..((block + 1) * self.kc).min(self.k)
    }

    /// Returns the kernel steps of a block; an odd last element is paired with zero.
    pub(super) fn steps(&self, block: usize) -> usize {
        self.word.steps(self.k_range(block).len())
    }

    /// Returns the number of words of all packed panels.
    pub(super) fn size(&self) -> usize {
        (0..self.blocks()).map(|block| self.steps(block)).sum::<usize>() * self.panels * self.mr
    }

    /// Returns the offset of panel `row` of a block of `k`.
    pub(super) fn offset(&self, block: usize, row: usize) -> usize {
        let before = block * self.word.steps(self.kc);
        (before * self.panels + row * self.steps(block)) * self.mr
    }
}

/// The tasks of an output `[m, n]`.
pub(super) struct Grid {
    pub(super) m: usize,
    pub(super) n: usize,
    panels_m: usize,
    panels_n: usize,
    tasks_m: usize,
    tasks_n: usize,
}

impl Grid {
    /// `words` is the size of a column panel over all of `k`, of which nothing is packed if it is read `in_place`.
    pub(super) fn new(
        kernel: &Kernel,
        (words, in_place): (usize, bool),
        (m, n): (usize, usize),
        threads: usize,
    ) -> Self {
        let (panels_m, panels_n) = (m.div_ceil(kernel.mr), n.div_ceil(kernel.nr));
        // Use as many column tasks as keep a task's panels in cache, in a multiple of the threads. Few rows keep no panels, and
        // their tasks are only large enough to be worth one.
        let (fewest, most) = PANELS_PER_TASK;
        let panels = if panels_m <= FEW && in_place {
            // The longer the rows of a task, the better memory answers.
            most
        } else if panels_m <= FEW && !kernel.word.tiled() {
            (SHARE / (m * words).max(1)).clamp(1, most)
        } else {
            (TASK_WORDS / words.max(1)).clamp(fewest, most)
        };
        let fit = panels_n.div_ceil(panels).next_multiple_of(threads);
        let tasks_n = fit.min(panels_n);
        // If there are too few columns for the threads (thin products), the rows are split as well.
        let wanted = if tasks_n >= threads { 1 } else { (2 * threads).div_ceil(tasks_n) };
        Self { m, n, panels_m, panels_n, tasks_m: wanted.min(panels_m), tasks_n }
    }

    /// Number of parts that the columns are cut into.
    pub(super) fn tasks_n(&self) -> usize {
        self.tasks_n
    }

    pub(super) fn tasks(&self) -> usize {
        self.tasks_m * self.tasks_n
    }

    /// Returns the row panels and column panels of a task; together the tasks partition the output.
    pub(super) fn ranges(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let share =
            |index: usize, parts: usize, total: usize| index * total / parts..(index + 1) * total / parts;
        (
            share(task / self.tasks_n, self.tasks_m, self.panels_m),
            share(task % self.tasks_n, self.tasks_n, self.panels_n),
        )
    }
}
