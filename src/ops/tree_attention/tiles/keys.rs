//! The packed keys and values of a batch: one entry for each run of keys and each key head.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::super::{Heads, Span, TreeSpans};
use crate::ops::gemm::panels::{Chunk, SIDE, Tiler};
use crate::ops::gemm::{Elements, Operand};

/// The panels of one run of keys of one key head.
pub(super) struct Run {
    /// Keys, for the products with queries: for each panel of 32 keys, the chunks of its features.
    pub(super) k: Vec<Chunk>,
    /// Values, for the products with weights (or with output gradients): for each panel, its chunks.
    pub(super) v: Vec<Chunk>,
    /// In the backward pass, keys as panels of features, for `dQ`: for each 32 features, the chunks of the keys.
    pub(super) k_by_feature: Vec<Chunk>,
}

/// All runs of a batch.
pub(super) struct Packed {
    places: BTreeMap<(usize, usize), usize>,
    runs: Vec<Run>,
    kv_heads: usize,
}

/// The pass that the panels are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Forward,
    Backward,
}

impl Packed {
    /// Packs every distinct run of `k` and `v`; completions share the run of their prompt.
    pub(super) fn new(trees: &[TreeSpans], heads: &Heads, (k, v): (&[f32], &[f32]), way: Way) -> Self {
        let ranges = |span: &Span| [span.prefix.clone(), span.own.clone()];
        let distinct: BTreeMap<(usize, usize), usize> = trees
            .iter()
            .flat_map(|tree| tree.spans.iter().flat_map(ranges))
            .filter(|range| !range.is_empty())
            .map(|range| ((range.start, range.end), 0))
            .collect();
        let ranges: Vec<Range<usize>> = distinct.keys().map(|(start, end)| *start..*end).collect();
        let places = distinct.into_keys().enumerate().map(|(i, range)| (range, i)).collect();
        let kv_heads = heads.n_kv_head;
        let runs = (0..ranges.len() * kv_heads)
            .into_par_iter()
            .map(|i| Run::new(heads, (k, v), &ranges[i / kv_heads], i % kv_heads, way))
            .collect();
        Self { places, runs, kv_heads }
    }

    /// Returns the panels of a range of keys, or `None` if it is empty.
    pub(super) fn run(&self, range: &Range<usize>, kv_head: usize) -> Option<&Run> {
        let place = self.places.get(&(range.start, range.end))?;
        self.runs.get(place * self.kv_heads + kv_head)
    }
}

impl Run {
    fn new(heads: &Heads, (k, v): (&[f32], &[f32]), rows: &Range<usize>, kv_head: usize, way: Way) -> Self {
        let mut run = Self { k: Vec::new(), v: Vec::new(), k_by_feature: Vec::new() };
        let Some(tiler) = Tiler::new() else { return run };
        let Heads { n_kv_head, head_dim, .. } = *heads;
        let stride = n_kv_head * head_dim;
        let at = rows.start * stride + kv_head * head_dim;
        let by_key = |x| Operand::strided(Elements::F32(x), rows.len(), head_dim, stride, 1);
        let by_feature = |x| Operand::strided(Elements::F32(x), head_dim, rows.len(), 1, stride);
        let (k, v) = (&k[at..], &v[at..]);
        match way {
            Way::Forward => {
                run.k = panels(&by_key(k), |from, first, to| tiler.right(from, first, to));
                run.v = panels(&by_feature(v), |from, first, to| tiler.right(from, first, to));
            }
            Way::Backward => {
                run.k = panels(&by_key(k), |from, first, to| tiler.left(from, first, to));
                run.v = panels(&by_key(v), |from, first, to| tiler.left(from, first, to));
                run.k_by_feature = panels(&by_feature(k), |from, first, to| tiler.left(from, first, to));
            }
        }
        run
    }
}

/// Where the chunks of 32 features begin in panels of features.
pub(super) fn feature(panels: &[Chunk], feature: usize, chunks: usize) -> (&[Chunk], usize) {
    (panels, feature * (panels.len() / chunks.max(1)))
}

/// Packs all lanes of an operand, panel by panel.
fn panels(from: &Operand, pack: impl Fn(&Operand, usize, &mut [Chunk])) -> Vec<Chunk> {
    let (lanes, k) = from.shape();
    let (panels, chunks) = (lanes.div_ceil(SIDE), k.div_ceil(SIDE));
    let mut to = vec![Chunk::ZERO; panels * chunks];
    for (panel, to) in to.chunks_exact_mut(chunks.max(1)).enumerate() {
        pack(from, panel * SIDE, to);
    }
    to
}
