//! The forward pass in tiles, with one task per block of queries.

use rayon::prelude::*;

use super::super::{Attended, Block, Heads, Saved, Span, blocks_of};
use super::keys::{self, Packed, Run, Way};
use super::squares::softmax;
use super::view::View;
use crate::error::Result;
use crate::ops::Tensor;
use crate::ops::gemm::panels::{Chunk, SIDE, Square, Tiler};
use crate::ops::gemm::{Elements, Operand};
use crate::ops::host;
use crate::ops::simd::scale_into;

/// Like `super::super::forward`.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub(in super::super) fn forward(attended: &Attended) -> Result<Saved> {
    let Attended { q, k, v, heads, trees, .. } = *attended;
    let (rows, width) = q.shape();
    let keys = Packed::new(trees, heads, (k.numbers(), v.numbers()), Way::Forward);
    let (mut output, mut lse) = (host::zeros(rows * width), vec![0.0; rows * heads.n_head]);
    // Blocks are in row order, and each has its own rows of the outputs.
    let mut tasks = Vec::new();
    let (mut output_left, mut lse_left) = (output.as_mut_slice(), lse.as_mut_slice());
    let mut at = 0;
    for span in trees.iter().flat_map(|tree| &tree.spans) {
        for block in blocks_of(span, SIDE, heads.window) {
            let first_row = span.queries.start + block.first;
            let (skipped, count) = (first_row - at, block.rows);
            let mine = take(&mut output_left, skipped * width, count * width);
            let mine_lse = take(&mut lse_left, skipped * heads.n_head, count * heads.n_head);
            at = first_row + count;
            tasks.push((span, block, mine, mine_lse));
        }
    }
    let pass = Pass { q: q.numbers(), heads, keys: &keys };
    tasks.into_par_iter().with_max_len(1).for_each(|(span, block, output, lse)| {
        pass.attend(span, &block, output, lse);
    });
    Ok(Saved { output: Tensor::new(output, (rows, width))?, lse })
}

/// Skips part of a slice and takes the next.
fn take<'a>(left: &mut &'a mut [f32], skipped: usize, count: usize) -> &'a mut [f32] {
    let (_, rest) = std::mem::take(left).split_at_mut(skipped);
    let (mine, rest) = rest.split_at_mut(count);
    *left = rest;
    mine
}

struct Pass<'a> {
    q: &'a [f32],
    heads: &'a Heads,
    keys: &'a Packed,
}

/// Buffers of a block and one head.
struct Buffers {
    /// Queries `[rows, head_dim]`, scaled.
    gathered: Vec<f32>,
    /// The same as a panel.
    q: Vec<Chunk>,
    /// A square for each panel of keys.
    scores: Vec<Square>,
    /// The weights, as a panel.
    weights: Vec<Chunk>,
    /// The sum of the weights of each query.
    totals: [f32; SIDE],
}

impl Pass<'_> {
    /// Computes all heads of a block of queries.
    fn attend(&self, span: &Span, block: &Block, output: &mut [f32], lse: &mut [f32]) {
        let Heads { n_head, head_dim, window, .. } = *self.heads;
        let Some(tiler) = Tiler::new() else { return };
        let view = View::new(span.prefix.len(), block.first + block.rows, block.origin);
        let panels = view.panels.len();
        // [rows, panels]
        let seen: Vec<u32> = (0..block.rows)
            .flat_map(|row| view.panels.iter().map(move |panel| panel.keys_of(block, row, window)))
            .collect();
        let mut buffers = Buffers {
            gathered: vec![0.0; block.rows * head_dim],
            q: vec![Chunk::ZERO; head_dim.div_ceil(SIDE)],
            scores: vec![Square::ZERO; panels],
            weights: vec![Chunk::ZERO; panels],
            totals: [0.0; SIDE],
        };
        for head in 0..n_head {
            let kv_head = head / self.heads.group();
            let runs = [&span.prefix, &span.own].map(|range| self.keys.run(range, kv_head));
            self.scores(
                &tiler,
                &view,
                runs,
                (span.queries.start + block.first, block.rows, head),
                &mut buffers,
            );
            for row in 0..block.rows {
                let seen = &seen[row * panels..(row + 1) * panels];
                let (max, total) = softmax(&tiler, &buffers.scores, row, seen, &mut buffers.weights);
                buffers.totals[row] = total;
                lse[row * n_head + head] = max + total.ln();
            }
            self.mix(&tiler, &view, runs, (block.rows, head), &buffers, output);
        }
    }

    /// Computes the scores of the queries of a head.
    fn scores(
        &self,
        tiler: &Tiler,
        view: &View,
        runs: [Option<&Run>; 2],
        (first_row, rows, head): (usize, usize, usize),
        buffers: &mut Buffers,
    ) {
        let Heads { n_head, head_dim, scale, .. } = *self.heads;
        let Buffers { gathered, q, scores, .. } = buffers;
        for (row, to) in gathered.chunks_exact_mut(head_dim).enumerate() {
            scale_into(to, &self.q[((first_row + row) * n_head + head) * head_dim..][..head_dim], scale);
        }
        tiler.left(&Operand::by_row(Elements::F32(gathered), rows, head_dim), 0, q);
        for (i, (panel, scores)) in view.panels.iter().zip(scores).enumerate() {
            let Some(run) = view.run(i, runs) else { continue };
            tiler.multiply(&[(q, &run.k[panel.index * q.len()..][..q.len()])], scores, rows);
        }
    }

    /// Computes the outputs of a head: its weights times the values, divided by the weights' sums.
    fn mix(
        &self,
        tiler: &Tiler,
        view: &View,
        runs: [Option<&Run>; 2],
        (rows, head): (usize, usize),
        buffers: &Buffers,
        output: &mut [f32],
    ) {
        let Heads { n_head, head_dim, .. } = *self.heads;
        let chunks = head_dim.div_ceil(SIDE);
        let mut mixed = Square::ZERO;
        for feature in 0..chunks {
            let parts = view.parts(
                0..view.panels.len(),
                runs,
                |run| keys::feature(&run.v, feature, chunks),
                &buffers.weights,
            );
            tiler.multiply(&parts.map(|(values, weights)| (weights, values)), &mut mixed, rows);
            let columns = (head_dim - feature * SIDE).min(SIDE);
            for (row, total) in buffers.totals[..rows].iter().enumerate() {
                let to = &mut output[(row * n_head + head) * head_dim + feature * SIDE..][..columns];
                scale_into(to, &mixed.row(row)[..columns], 1.0 / total);
            }
        }
    }
}
