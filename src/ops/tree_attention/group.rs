//! The operands of one block of queries and one key head; the group's query heads are stacked as rows.

use std::ops::Range;

use super::{Block, Heads};
use crate::ops::gemm::{Elements, Operand, Packed, Precision, Segment, serial};
use crate::ops::simd::{scale_into, vectorised};

/// The borrowed inputs of a pass.
pub(super) struct Inputs<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) heads: &'a Heads,
    /// The precision to which the products' operands are rounded.
    pub(super) precision: Precision,
}

impl Inputs<'_> {
    /// Gathers the rows of all heads of the group from a `[T, n_head·head_dim]` slice, head by head: `[group·rows,
    /// head_dim]`, times `factor`.
    pub(super) fn gather(
        &self,
        from: &[f32],
        block: &Block,
        first_row: usize,
        kv_head: usize,
        factor: f32,
    ) -> Vec<f32> {
        let Heads { n_head, head_dim, .. } = *self.heads;
        let mut to = vec![0.0; self.heads.group() * block.rows * head_dim];
        for (i, to) in to.chunks_exact_mut(head_dim).enumerate() {
            let (head, row) = (kv_head * self.heads.group() + i / block.rows, first_row + i % block.rows);
            scale_into(to, &from[(row * n_head + head) * head_dim..][..head_dim], factor);
        }
        to
    }

    /// Packs row-major `[rows, columns]` data as a left operand.
    pub(super) fn packed(&self, data: &[f32], columns: usize) -> Packed {
        let rows = data.len() / columns.max(1);
        Packed::serial(&Operand::by_row(Elements::F32(data), rows, columns), self.precision)
    }

    /// Computes `scores [group·rows, keys] = cap(q·kᵀ)` for scaled queries, including masked pairs.
    pub(super) fn scores(&self, block: &Block, kv_head: usize, q: &Packed, scores: &mut [f32]) {
        self.against(self.k, block, kv_head, q, scores);
        if let Some(softcap) = self.heads.softcap {
            cap(scores, softcap);
        }
    }

    /// Computes `out [group·rows, keys] = left·rowsᵀ` over the rows of the keys (or values).
    pub(super) fn against(
        &self,
        from: &[f32],
        block: &Block,
        kv_head: usize,
        left: &Packed,
        out: &mut [f32],
    ) {
        for (at, rows) in block.runs() {
            let b = self.rows(from, &rows, kv_head);
            serial(&mut out[at..], block.keys(), &[Segment { a: left, b }], false);
        }
    }

    /// Computes `out [group·rows, head_dim] = weights [group·rows, keys]·rows` over the rows of the values (or keys).
    pub(super) fn mix(&self, from: &[f32], block: &Block, kv_head: usize, weights: &[f32], out: &mut [f32]) {
        let (keys, head_dim) = (block.keys(), self.heads.head_dim);
        let lanes = weights.len() / keys.max(1);
        let packed: Vec<(Packed, Operand)> = block
            .runs()
            .map(|(at, rows)| {
                let p = Operand::strided(Elements::F32(&weights[at..]), lanes, rows.len(), keys, 1);
                (Packed::serial(&p, self.precision), self.columns(from, &rows, kv_head))
            })
            .collect();
        let segments: Vec<Segment> = packed.iter().map(|(a, b)| Segment { a, b: *b }).collect();
        serial(out, head_dim, &segments, false);
    }

    /// Views the key (or value) rows of a head with rows as lanes and features as `k`.
    fn rows<'a>(&self, from: &'a [f32], rows: &Range<usize>, kv_head: usize) -> Operand<'a> {
        let stride = self.heads.n_kv_head * self.heads.head_dim;
        let at = (rows.start * stride + kv_head * self.heads.head_dim).min(from.len());
        Operand::strided(Elements::F32(&from[at..]), rows.len(), self.heads.head_dim, stride, 1)
    }

    /// Views the value (or key) rows of a head with rows as `k` and features as lanes.
    fn columns<'a>(&self, from: &'a [f32], rows: &Range<usize>, kv_head: usize) -> Operand<'a> {
        let stride = self.heads.n_kv_head * self.heads.head_dim;
        let at = (rows.start * stride + kv_head * self.heads.head_dim).min(from.len());
        Operand::strided(Elements::F32(&from[at..]), self.heads.head_dim, rows.len(), 1, stride)
    }
}

vectorised! {
    /// Computes `c·tanh(s/c)`.
    fn cap(scores: &mut [f32], c: f32) {
        for s in scores.iter_mut() {
            // tanh(u) = 1 − 2 / (e^{2u} + 1)
            let e = crate::ops::simd::exp::<FMA>(2.0 * *s / c);
            *s = c * (1.0 - 2.0 / (e + 1.0));
        }
    }
}
