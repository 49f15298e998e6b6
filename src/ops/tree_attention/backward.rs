//! The backward pass: one task a tree and head, blocks of queries in order, so that sums have one order.

use candle_core::Tensor;
use rayon::prelude::*;

use super::forward::Inputs;
use super::{Block, Heads, Saved, TreeSpans, blocks, plain};
use crate::error::Result;
use crate::ops::gemm::{Elements, Operand, gemm_serial};
use crate::ops::simd::{dot, vectorised};
use crate::ops::{host, oracle};

/// Gradients of `q`, `k` and `v` of a packed batch (keys and queries are the same rows).
///
/// # Errors
/// If the shapes do not fit.
pub fn backward(
    d_output: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    saved: &Saved,
    heads: &Heads,
    trees: &[TreeSpans],
) -> Result<(Tensor, Tensor, Tensor)> {
    if !q.device().is_cpu() {
        let mut g =
            oracle::gradients(&[q, k, v], d_output, |x| plain::reference(&x[0], &x[1], &x[2], heads, trees))?;
        let (dv, dk) = (g.remove(2), g.remove(1));
        return Ok((g.remove(0), dk, dv));
    }
    let rows = q.dims2()?.0;
    let (d_output, output) = (host::read(d_output)?, host::read(&saved.output)?);
    let (q, k, v) = (host::read(q)?, host::read(k)?, host::read(v)?);
    let pass = Pass {
        inputs: Inputs { q: &q, k: &k, v: &v, heads },
        d_output: &d_output,
        output: &output,
        lse: &saved.lse,
    };
    let Heads { n_head, n_kv_head, head_dim, .. } = *heads;
    let tasks: Vec<(usize, usize)> =
        (0..trees.len()).flat_map(|t| (0..n_head).map(move |h| (t, h))).collect();
    let parts: Vec<Part> =
        tasks.par_iter().with_max_len(1).map(|&(tree, head)| pass.head(&trees[tree], head)).collect();

    let mut dq = vec![0.0; rows * n_head * head_dim];
    let mut dk = vec![0.0; rows * n_kv_head * head_dim];
    let mut dv = vec![0.0; rows * n_kv_head * head_dim];
    for (&(tree, head), part) in tasks.iter().zip(&parts) {
        let first = trees[tree].rows.start;
        scatter(&mut dq[first * n_head * head_dim..], &part.dq, n_head, head, head_dim);
        let kv = pass.inputs.kv_head(head);
        scatter(&mut dk[first * n_kv_head * head_dim..], &part.dk, n_kv_head, kv, head_dim);
        scatter(&mut dv[first * n_kv_head * head_dim..], &part.dv, n_kv_head, kv, head_dim);
    }
    let shape = |heads| (rows, heads * head_dim);
    Ok((
        host::tensor(dq, shape(n_head))?,
        host::tensor(dk, shape(n_kv_head))?,
        host::tensor(dv, shape(n_kv_head))?,
    ))
}

/// Adds `part [rows, head_dim]` to head `head` of `out [rows, heads·head_dim]`.
fn scatter(out: &mut [f32], part: &[f32], heads: usize, head: usize, head_dim: usize) {
    for (out, part) in out.chunks_exact_mut(heads * head_dim).zip(part.chunks_exact(head_dim)) {
        out[head * head_dim..][..head_dim].iter_mut().zip(part).for_each(|(o, p)| *o += p);
    }
}

struct Pass<'a> {
    inputs: Inputs<'a>,
    d_output: &'a [f32],
    output: &'a [f32],
    lse: &'a [f32],
}

/// Gradients of one tree and query head, `[rows of the tree, head_dim]` each.
struct Part {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl Pass<'_> {
    fn head(&self, tree: &TreeSpans, head: usize) -> Part {
        let size = tree.rows.len() * self.inputs.heads.head_dim;
        let mut part = Part { dq: vec![0.0; size], dk: vec![0.0; size], dv: vec![0.0; size] };
        let (mut p, mut ds) = (Vec::new(), Vec::new());
        for span in &tree.spans {
            for block in blocks(span, self.inputs.heads.window) {
                let first_row = span.queries.start + block.first;
                p.resize(block.rows * block.keys(), 0.0);
                ds.resize(block.rows * block.keys(), 0.0);
                self.weights(&block, first_row, head, &mut p, &mut ds);
                self.products(&block, first_row, head, tree.rows.start, (&p, &ds), &mut part);
            }
        }
        part
    }

    /// Recomputes `p [rows, keys]` and from it `ds`, the gradient of the products `q·k`.
    fn weights(&self, block: &Block, first_row: usize, head: usize, p: &mut [f32], ds: &mut [f32]) {
        let Heads { n_head, head_dim, scale, softcap, window, .. } = *self.inputs.heads;
        self.inputs.scores(block, first_row, head, p);
        let d_output = self.inputs.queries(self.d_output, block, first_row, head);
        for (at, rows) in [(0, &block.prefix), (block.prefix.len(), &block.own)] {
            if !rows.is_empty() {
                let v = self.inputs.keys(self.inputs.v, rows, head);
                gemm_serial(&mut ds[at..], block.keys(), &d_output, &v, false);
            }
        }
        for row in 0..block.rows {
            let at = ((first_row + row) * n_head + head) * head_dim;
            let delta = dot(&self.d_output[at..at + head_dim], &self.output[at..at + head_dim]);
            let lse = self.lse[(first_row + row) * n_head + head];
            let range = row * block.keys()..(row + 1) * block.keys();
            let (p, ds) = (&mut p[range.clone()], &mut ds[range]);
            let visible = block.visible(row, window);
            for masked in [0..visible.start, visible.end..block.keys()] {
                p[masked.clone()].fill(0.0);
                ds[masked].fill(0.0);
            }
            score_gradient(&mut p[visible.clone()], &mut ds[visible], lse, delta, scale, softcap);
        }
    }

    /// `dq += ds·K`, `dk += dsᵀ·Q`, `dv += pᵀ·dO`.
    fn products(
        &self,
        block: &Block,
        first_row: usize,
        head: usize,
        tree_start: usize,
        (p, ds): (&[f32], &[f32]),
        part: &mut Part,
    ) {
        let Heads { n_head, head_dim, .. } = *self.inputs.heads;
        let keys = block.keys();
        let columns = |from: &'_ [f32]| (first_row * n_head + head) * head_dim..from.len();
        let by_feature = |from| {
            let data: &[f32] = from;
            Operand::strided(Elements::F32(&data[columns(data)]), head_dim, block.rows, 1, n_head * head_dim)
        };
        let (q, d_output) = (by_feature(self.inputs.q), by_feature(self.d_output));
        for (at, rows) in [(0, &block.prefix), (block.prefix.len(), &block.own)] {
            if rows.is_empty() {
                continue;
            }
            let by_query = Operand::strided(Elements::F32(&ds[at..]), block.rows, rows.len(), keys, 1);
            let by_key = |x| Operand::strided(Elements::F32(x), rows.len(), block.rows, 1, keys);
            let window = (rows.start - tree_start) * head_dim..(rows.end - tree_start) * head_dim;
            let dq = &mut part.dq[(first_row - tree_start) * head_dim..][..block.rows * head_dim];
            gemm_serial(dq, head_dim, &by_query, &self.inputs.values(self.inputs.k, rows, head), true);
            gemm_serial(&mut part.dk[window.clone()], head_dim, &by_key(&ds[at..]), &q, true);
            gemm_serial(&mut part.dv[window], head_dim, &by_key(&p[at..]), &d_output, true);
        }
    }
}

vectorised! {
    /// `p` arrives as scores, `ds` as `dO·Vᵀ`; they leave as weights and the gradient of `q·k`.
    fn score_gradient(p: &mut [f32], ds: &mut [f32], lse: f32, delta: f32, scale: f32, softcap: Option<f32>) {
        match softcap {
            None => for (p, ds) in p.iter_mut().zip(ds) {
                *p = crate::ops::simd::exp::<FMA>(*p - lse);
                *ds = *p * (*ds - delta) * scale;
            },
            Some(c) => for (p, ds) in p.iter_mut().zip(ds) {
                // d cap(s)/ds = 1 − tanh² = 1 − (cap(s)/c)²
                let slope = 1.0 - (*p / c) * (*p / c);
                *p = crate::ops::simd::exp::<FMA>(*p - lse);
                *ds = *p * (*ds - delta) * slope * scale;
            },
        }
    }
}
