//! The panels of keys that a block of queries sees.

use std::ops::Range;

use super::super::Block;
use super::keys::Run;
use crate::ops::gemm::panels::{Chunk, SIDE};

/// 32 keys of a run, or fewer at its end.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    /// Its index in the run.
    pub(super) index: usize,
    /// The position of its first key.
    pub(super) position: usize,
    /// Its number of keys.
    pub(super) keys: usize,
}

impl Panel {
    /// Whether a query of the block sees one of its keys.
    pub(super) fn is_seen(&self, block: &Block, window: Option<usize>) -> bool {
        let (from, _) = block.seen(0, window);
        let (_, to) = block.seen(block.rows - 1, window);
        self.position < to && from < self.position + self.keys
    }

    /// Returns a bit for each key that a query sees.
    pub(super) fn keys_of(&self, block: &Block, row: usize, window: Option<usize>) -> u32 {
        let (from, to) = block.seen(row, window);
        bits(from.saturating_sub(self.position), to.saturating_sub(self.position).min(self.keys))
    }

    /// Returns for each key a bit for each query that sees it.
    pub(super) fn queries_of(&self, block: &Block, window: Option<usize>) -> [u32; SIDE] {
        std::array::from_fn(|key| {
            let at = self.position + key;
            let end = window.map_or(block.rows, |w| (at + w).saturating_sub(block.position).min(block.rows));
            if key < self.keys { bits(at.saturating_sub(block.position), end) } else { 0 }
        })
    }
}

/// Consecutive panels: first those of the prefix, then those of the span's own run.
pub(super) struct View {
    pub(super) panels: Vec<Panel>,
    /// How many of them belong to the prefix.
    pub(super) prefix: usize,
}

impl View {
    /// Returns the panels of a prefix and of an own run of these lengths that hold positions from `origin` on.
    pub(super) fn new(prefix: usize, own: usize, origin: usize) -> Self {
        let of_run = |start: usize, length: usize| {
            let first = origin.saturating_sub(start).min(length) / SIDE;
            (first..length.div_ceil(SIDE)).map(move |index| Panel {
                index,
                position: start + index * SIDE,
                keys: (length - index * SIDE).min(SIDE),
            })
        };
        let mut panels: Vec<Panel> = of_run(0, prefix).collect();
        let of_prefix = panels.len();
        panels.extend(of_run(prefix, own));
        Self { panels, prefix: of_prefix }
    }

    /// Returns the run of a panel, given those of the prefix and of the span.
    pub(super) fn run<'a>(&self, panel: usize, runs: [Option<&'a Run>; 2]) -> Option<&'a Run> {
        runs[usize::from(panel >= self.prefix)]
    }

    /// Returns the operands of a sum over the keys of some panels: for each of the two runs, the chunks of 32 features of
    /// `of_run`, which are contiguous, and those of `other`, which has one chunk for each of the panels.
    pub(super) fn parts<'a>(
        &self,
        panels: Range<usize>,
        runs: [Option<&'a Run>; 2],
        of_run: impl Fn(&'a Run) -> (&'a [Chunk], usize),
        other: &'a [Chunk],
    ) -> [(&'a [Chunk], &'a [Chunk]); 2] {
        let border = self.prefix.clamp(panels.start, panels.end);
        [panels.start..border, border..panels.end].map(|part| {
            let Some((run, first)) = self.run(part.start, runs).zip(self.panels[part.clone()].first()) else {
                return (&[][..], &[][..]);
            };
            let (chunks, at) = of_run(run);
            let mine = &other[part.start - panels.start..part.end - panels.start];
            (&chunks[at + first.index..][..part.len()], mine)
        })
    }
}

/// Returns the bits from `from` to `to`, at most 32.
fn bits(from: usize, to: usize) -> u32 {
    let below = |count: usize| u32::MAX.checked_shr(32 - count.min(SIDE) as u32).unwrap_or(0);
    if from < to { below(to) & !below(from) } else { 0 }
}

impl Block {
    /// Returns the positions that query `row` sees.
    fn seen(&self, row: usize, window: Option<usize>) -> (usize, usize) {
        let position = self.position + row;
        (window.map_or(0, |w| (position + 1).saturating_sub(w)), position + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_the_range() {
        assert_eq!((bits(0, 32), bits(0, 0), bits(5, 3)), (u32::MAX, 0, 0));
        assert_eq!((bits(2, 5), bits(31, 32), bits(0, 1)), (0b11100, 1 << 31, 1));
        assert_eq!(bits(40, 50), 0);
    }

    #[test]
    fn panels_count_from_the_beginning_of_their_run() {
        let view = View::new(70, 40, 66);
        let found: Vec<_> = view.panels.iter().map(|p| (p.index, p.position, p.keys)).collect();
        assert_eq!((found, view.prefix), (vec![(2, 64, 6), (0, 70, 32), (1, 102, 8)], 1));
    }
}
