//! Runs of query blocks: the units of the backward pass, whose gradients are added in row order.

use std::ops::Range;

use rayon::prelude::*;

use super::group::Inputs;
use super::{Block, Heads, Span, TreeSpans};

/// A run of consecutive query blocks of a span.
pub(super) struct Run<'a> {
    pub(super) span: &'a Span,
    /// Rows of `q`.
    pub(super) queries: Range<usize>,
    /// The span's own rows of `k`, up to the run's last query.
    pub(super) own: Range<usize>,
    pub(super) blocks: Vec<Block>,
}

/// Splits the spans of a batch into runs of about `size` queries.
pub(super) fn runs<B: Iterator<Item = Block>>(
    trees: &[TreeSpans],
    size: usize,
    blocks: impl Fn(&Span) -> B,
) -> Vec<Run<'_>> {
    let mut all: Vec<Run> = Vec::new();
    for span in trees.iter().flat_map(|tree| &tree.spans) {
        let first_run = all.len();
        for block in blocks(span) {
            let rows = span.queries.start + block.first..span.queries.start + block.first + block.rows;
            let own = span.own.start..span.own.start + block.first + block.rows;
            match all[first_run..].last_mut().filter(|run| run.queries.len() < size) {
                Some(run) => {
                    run.queries.end = rows.end;
                    run.own.end = own.end;
                    run.blocks.push(block);
                }
                None => all.push(Run { span, queries: rows, own, blocks: vec![block] }),
            }
        }
    }
    all
}

impl Run<'_> {
    /// Returns the index of a row of `k` among the run's keys.
    pub(super) fn key(&self, row: usize) -> usize {
        let prefix = &self.span.prefix;
        if prefix.contains(&row) { row - prefix.start } else { prefix.len() + row - self.own.start }
    }

    /// Returns the number of its keys.
    pub(super) fn keys(&self) -> usize {
        self.span.prefix.len() + self.own.len()
    }
}

/// What the backward pass reads.
pub(super) struct Pass<'a> {
    pub(super) inputs: Inputs<'a>,
    pub(super) d_output: &'a [f32],
    pub(super) output: &'a [f32],
    pub(super) lse: &'a [f32],
}

/// The gradients of one run and key head: `dq [group, queries, head_dim]`, `dk` and `dv [keys, head_dim]`.
pub(super) struct Part {
    pub(super) dq: Vec<f32>,
    pub(super) dk: Vec<f32>,
    pub(super) dv: Vec<f32>,
}

impl Part {
    /// Returns zeros for a run.
    pub(super) fn zeros(run: &Run, heads: &Heads) -> Self {
        let keys = run.keys() * heads.head_dim;
        Self {
            dq: vec![0.0; heads.group() * run.queries.len() * heads.head_dim],
            dk: vec![0.0; keys],
            dv: vec![0.0; keys],
        }
    }
}

/// Computes the gradients of each run and key head, with one task for each.
pub(super) fn gradients(runs: &[Run], heads: &Heads, of: impl Fn(&Run, usize) -> Part + Sync) -> Vec<Part> {
    let kv_heads = heads.n_kv_head;
    let task = |task: usize| of(&runs[task / kv_heads], task % kv_heads);
    (0..runs.len() * kv_heads).into_par_iter().with_max_len(1).map(task).collect()
}
