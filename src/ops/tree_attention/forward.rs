//! The forward pass, with one task per block of queries and key head.

use std::cell::Cell;

use rayon::prelude::*;

use super::group::Inputs;
use super::{Attended, Block, Heads, Saved, Seen, blocks};
use crate::error::{Error, Result};
use crate::ops::Tensor;
use crate::ops::host;
use crate::ops::simd::{exp_shifted, scale_into};

/// Returns the output `[Tq, n_head·head_dim]` and the state that the backward pass needs.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn forward(attended: &Attended) -> Result<Saved> {
    #[cfg(target_arch = "x86_64")]
    if super::tiles::fits(attended) {
        return super::tiles::forward(attended);
    }
    let together = Seen { k: attended.k.numbers(), v: attended.v.numbers() };
    compute(attended, |_| together)
}

/// Like [`forward`] with the keys and values of each tree in buffers of their own, `seen` in the order of the trees. The
/// rows of a span's keys count from the start of its tree's buffer, and `k` and `v` of `attended` are not read.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn forward_after(attended: &Attended, seen: &[Seen]) -> Result<Saved> {
    let width = attended.heads.n_kv_head * attended.heads.head_dim;
    for (index, tree) in attended.trees.iter().enumerate() {
        let keys = tree.spans.iter().map(|span| span.own.end.max(span.prefix.end)).max().unwrap_or(0);
        let held = seen.get(index).map_or(0, |seen| seen.k.len().min(seen.v.len()));
        if held < keys * width {
            return Err(Error::Model(format!("{held} numbers of keys for {keys} rows of {width}")));
        }
    }
    compute(attended, |tree| seen[tree])
}

/// Computes all trees; `seen` gives the keys and values of a tree.
fn compute<'a>(attended: &Attended<'a>, seen: impl Fn(usize) -> Seen<'a>) -> Result<Saved> {
    let Attended { q, heads, precision, trees, .. } = *attended;
    let (rows, width) = q.shape();
    let q = q.numbers();
    let (mut output, mut lse) = (host::zeros(rows * width), vec![0.0; rows * heads.n_head]);

    // Blocks are in row order, and each has its own rows of the outputs.
    let mut tasks = Vec::new();
    let (mut output_left, mut lse_left) = (output.as_mut_slice(), lse.as_mut_slice());
    let mut at = 0;
    let spans = trees.iter().enumerate().flat_map(|(i, tree)| tree.spans.iter().map(move |span| (i, span)));
    for (tree, span) in spans {
        let Seen { k, v } = seen(tree);
        for block in blocks(span, heads) {
            let first_row = span.queries.start + block.first;
            let (_, rest) = output_left.split_at_mut((first_row - at) * width);
            let (mine, rest) = rest.split_at_mut(block.rows * width);
            output_left = rest;
            let (_, rest) = lse_left.split_at_mut((first_row - at) * heads.n_head);
            let (mine_lse, rest) = rest.split_at_mut(block.rows * heads.n_head);
            lse_left = rest;
            at = first_row + block.rows;
            for (kv_head, rows) in of_key_heads(heads, mine, mine_lse).into_iter().enumerate() {
                let inputs = Inputs { q, k, v, heads, precision };
                tasks.push((inputs, block.clone(), (first_row, kv_head), rows));
            }
        }
    }
    tasks.into_par_iter().with_max_len(1).for_each(|(inputs, block, place, rows)| {
        inputs.attend(&block, place, rows);
    });
    Ok(Saved { output: Tensor::new(output, (rows, width))?, lse })
}

/// The outputs of one query of a block and one group of heads: `[group·head_dim]` numbers, and a log of sums per head.
type Row<'a> = (&'a mut [f32], &'a mut [f32]);

/// Splits the outputs of a block by key heads.
fn of_key_heads<'a>(heads: &Heads, output: &'a mut [f32], lse: &'a mut [f32]) -> Vec<Vec<Row<'a>>> {
    let mut all: Vec<Vec<Row>> =
        (0..heads.n_kv_head).map(|_| Vec::with_capacity(lse.len() / heads.n_head)).collect();
    let width = heads.n_head * heads.head_dim;
    for (output, lse) in output.chunks_exact_mut(width).zip(lse.chunks_exact_mut(heads.n_head)) {
        let groups = output.chunks_exact_mut(heads.group() * heads.head_dim);
        let rows = groups.zip(lse.chunks_exact_mut(heads.group()));
        all.iter_mut().zip(rows).for_each(|(all, row)| all.push(row));
    }
    all
}

/// The most scores whose buffer a thread keeps.
const KEPT: usize = 1 << 20;

thread_local! {
    /// Buffer for scores, kept between blocks.
    static SCORES: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

impl Inputs<'_> {
    /// Computes the heads of one group for a block of queries.
    fn attend(&self, block: &Block, (first_row, kv_head): (usize, usize), mut rows: Vec<Row>) {
        let Heads { head_dim, scale, window, .. } = *self.heads;
        let lanes = self.heads.group() * block.rows;
        let mut scores = SCORES.take();
        let size = lanes * block.keys();
        scores.reserve_exact(size.saturating_sub(scores.len()));
        scores.resize(size, 0.0);
        let (mut mixed, mut totals) = (vec![0.0; lanes * head_dim], vec![0.0; lanes]);
        let q = self.packed(&self.gather(self.q, block, first_row, kv_head, scale), head_dim);
        self.scores(block, kv_head, &q, &mut scores);
        for (i, scores) in scores.chunks_exact_mut(block.keys()).enumerate() {
            let visible = block.visible(i % block.rows, window);
            let (max, total) = exp_shifted(&mut scores[visible.clone()]);
            scores[..visible.start].fill(0.0);
            scores[visible.end..].fill(0.0);
            totals[i] = total;
            rows[i % block.rows].1[i / block.rows] = max + total.ln();
        }
        self.mix(self.v, block, kv_head, &scores, &mut mixed);
        for (i, mixed) in mixed.chunks_exact(head_dim).enumerate() {
            let output = &mut rows[i % block.rows].0[i / block.rows * head_dim..][..head_dim];
            scale_into(output, mixed, 1.0 / totals[i]);
        }
        if scores.capacity() <= KEPT {
            SCORES.set(scores);
        }
    }
}
