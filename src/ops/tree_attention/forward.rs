//! The forward pass.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Block, Heads, Saved, TreeSpans, blocks, plain};
use crate::error::Result;
use crate::ops::gemm::{Elements, Operand, gemm_serial};
use crate::ops::host;
use crate::ops::simd::{add_scaled, exp_shifted, vectorised};

/// `q [Tq, n_head·head_dim]`, `k, v [Tk, n_kv_head·head_dim]` → output `[Tq, n_head·head_dim]` and what backward needs.
///
/// # Errors
/// If the shapes do not fit.
pub fn forward(q: &Tensor, k: &Tensor, v: &Tensor, heads: &Heads, trees: &[TreeSpans]) -> Result<Saved> {
    if !q.device().is_cpu() {
        return Ok(Saved { output: plain::reference(q, k, v, heads, trees)?, lse: Vec::new() });
    }
    let (rows, width) = q.dims2()?;
    let (q, k, v) = (host::read(q)?, host::read(k)?, host::read(v)?);
    let inputs = Inputs { q: &q, k: &k, v: &v, heads };
    let (mut output, mut lse) = (vec![0.0; rows * width], vec![0.0; rows * heads.n_head]);

    // Blocks in row order, each with its own rows of the outputs.
    let mut tasks = Vec::new();
    let (mut output_left, mut lse_left) = (output.as_mut_slice(), lse.as_mut_slice());
    let mut at = 0;
    for span in trees.iter().flat_map(|tree| &tree.spans) {
        for block in blocks(span, heads.window) {
            let first_row = span.queries.start + block.first;
            let (_, rest) = output_left.split_at_mut((first_row - at) * width);
            let (mine, rest) = rest.split_at_mut(block.rows * width);
            output_left = rest;
            let (_, rest) = lse_left.split_at_mut((first_row - at) * heads.n_head);
            let (mine_lse, rest) = rest.split_at_mut(block.rows * heads.n_head);
            lse_left = rest;
            at = first_row + block.rows;
            tasks.push((block, first_row, mine, mine_lse));
        }
    }
    tasks.into_par_iter().with_max_len(1).for_each(|(block, first_row, output, lse)| {
        inputs.attend(&block, first_row, output, lse);
    });
    Ok(Saved { output: host::tensor(output, (rows, width))?, lse })
}

/// Borrowed inputs of a pass.
pub(super) struct Inputs<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) heads: &'a Heads,
}

impl Inputs<'_> {
    /// All heads of a block of queries.
    fn attend(&self, block: &Block, first_row: usize, output: &mut [f32], lse: &mut [f32]) {
        let Heads { n_head, head_dim, .. } = *self.heads;
        let mut scores = vec![0.0; block.rows * block.keys()];
        let mut sums = vec![0.0; block.rows * head_dim];
        for head in 0..n_head {
            self.scores(block, first_row, head, &mut scores);
            for (row, scores) in scores.chunks_exact_mut(block.keys()).enumerate() {
                let visible = block.visible(row, self.heads.window);
                let (max, total) = exp_shifted(&mut scores[visible.clone()]);
                scores[..visible.start].fill(0.0);
                scores[visible.end..].fill(0.0);
                lse[row * n_head + head] = max + total.ln();
            }
            self.mix(block, head, &scores, &mut sums);
            for (row, sums) in sums.chunks_exact(head_dim).enumerate() {
                let visible = block.visible(row, self.heads.window);
                let total = total(&scores[row * block.keys()..][visible]);
                let out = &mut output[(row * n_head + head) * head_dim..][..head_dim];
                add_scaled(out, sums, 1.0 / total);
            }
        }
    }

    /// `scores [rows, keys] = cap(scale·q·kᵀ)`, masked or not.
    pub(super) fn scores(&self, block: &Block, first_row: usize, head: usize, scores: &mut [f32]) {
        let q = self.queries(self.q, block, first_row, head);
        let keys = block.keys();
        for (at, rows) in [(0, &block.prefix), (block.prefix.len(), &block.own)] {
            let k = self.keys(self.k, rows, head);
            if !rows.is_empty() {
                gemm_serial(&mut scores[at..], keys, &q, &k, false);
            }
        }
        cap(scores, self.heads.scale, self.heads.softcap);
    }

    /// `out [rows, head_dim] = weights [rows, keys] · v`.
    fn mix(&self, block: &Block, head: usize, weights: &[f32], out: &mut [f32]) {
        let (keys, head_dim) = (block.keys(), self.heads.head_dim);
        out.fill(0.0);
        for (at, rows) in [(0, &block.prefix), (block.prefix.len(), &block.own)] {
            if !rows.is_empty() {
                let p = Operand::strided(Elements::F32(&weights[at..]), block.rows, rows.len(), keys, 1);
                gemm_serial(out, head_dim, &p, &self.values(self.v, rows, head), true);
            }
        }
    }

    /// Query rows of a block and head, from a `[T, n_head·head_dim]` slice.
    pub(super) fn queries<'a>(
        &self,
        from: &'a [f32],
        block: &Block,
        first_row: usize,
        head: usize,
    ) -> Operand<'a> {
        let Heads { n_head, head_dim, .. } = *self.heads;
        let data = Elements::F32(&from[(first_row * n_head + head) * head_dim..]);
        Operand::strided(data, block.rows, head_dim, n_head * head_dim, 1)
    }

    /// Key (or value) rows of a head as lanes, features as `k`.
    pub(super) fn keys<'a>(
        &self,
        from: &'a [f32],
        rows: &std::ops::Range<usize>,
        head: usize,
    ) -> Operand<'a> {
        let stride = self.heads.n_kv_head * self.heads.head_dim;
        let at = (rows.start * stride + self.kv_head(head) * self.heads.head_dim).min(from.len());
        Operand::strided(Elements::F32(&from[at..]), rows.len(), self.heads.head_dim, stride, 1)
    }

    /// Value (or key) rows of a head as `k`, features as lanes.
    pub(super) fn values<'a>(
        &self,
        from: &'a [f32],
        rows: &std::ops::Range<usize>,
        head: usize,
    ) -> Operand<'a> {
        let stride = self.heads.n_kv_head * self.heads.head_dim;
        let at = (rows.start * stride + self.kv_head(head) * self.heads.head_dim).min(from.len());
        Operand::strided(Elements::F32(&from[at..]), self.heads.head_dim, rows.len(), 1, stride)
    }

    pub(super) fn kv_head(&self, head: usize) -> usize {
        head / (self.heads.n_head / self.heads.n_kv_head)
    }
}

vectorised! {
    /// Scores from products.
    fn cap(scores: &mut [f32], scale: f32, softcap: Option<f32>) {
        match softcap {
            None => scores.iter_mut().for_each(|s| *s *= scale),
            Some(c) => scores.iter_mut().for_each(|s| {
                // tanh(u) = 1 − 2 / (e^{2u} + 1)
                let e = crate::ops::simd::exp::<FMA>(2.0 * (*s * scale) / c);
                *s = c * (1.0 - 2.0 / (e + 1.0));
            }),
        }
    }
}

vectorised! {
    fn total(weights: &[f32]) -> f32 {
        let _ = FMA;
        crate::ops::simd::sum(weights.len(), |i| weights[i])
    }
}
