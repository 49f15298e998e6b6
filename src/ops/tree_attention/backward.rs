//! The backward pass, with one task per run of query blocks and key head. The parts of the runs are added in row order,
//! so that the order of sums is fixed.

use std::ops::Range;

use rayon::prelude::*;

use super::group::Inputs;
use super::{Attended, Block, Heads, Saved, Span, blocks};
use crate::error::Result;
use crate::ops::Tensor;
use crate::ops::gemm::{Elements, Operand, Packed, Segment, serial};
use crate::ops::host;
use crate::ops::simd::{add_scaled, dot, vectorised};

/// Approximate number of query rows per run; a constant, so that the order of sums is fixed.
const RUN: usize = 192;

/// Returns the gradients of `q`, `k` and `v` of a packed batch. There may be more rows of keys than of queries.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn backward(d_output: &Tensor, attended: &Attended, saved: &Saved) -> Result<(Tensor, Tensor, Tensor)> {
    let Attended { q, k, v, heads, precision, trees } = *attended;
    let (rows, keys) = (q.shape().0, k.shape().0);
    let (d_output, output) = (d_output.numbers(), saved.output.numbers());
    let (q, k, v) = (q.numbers(), k.numbers(), v.numbers());
    let pass = Pass { inputs: Inputs { q, k, v, heads, precision }, d_output, output, lse: &saved.lse };
    let Heads { n_head, n_kv_head, head_dim, .. } = *heads;
    let runs: Vec<Run> =
        trees.iter().flat_map(|tree| &tree.spans).flat_map(|span| runs(span, heads)).collect();
    let parts: Vec<Part> = (0..runs.len() * n_kv_head)
        .into_par_iter()
        .with_max_len(1)
        .map(|task| pass.run(&runs[task / n_kv_head], task % n_kv_head))
        .collect();

    let places = Places::of(&runs, rows, keys);
    let group = heads.group();
    let dq = host::build_rows(rows, n_head * head_dim, |row, out| {
        let Some(r) = places.queries[row] else { return };
        let (len, at) = (runs[r].queries.len(), row - runs[r].queries.start);
        for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
            let part = &parts[r * n_kv_head + head / group].dq;
            out.copy_from_slice(&part[(head % group * len + at) * head_dim..][..head_dim]);
        }
    });
    let (dk, dv) = host::build_two(keys, n_kv_head * head_dim, |row, dk, dv| {
        for &r in &places.keys[row] {
            let at = runs[r].key(row) * head_dim;
            for kv in 0..n_kv_head {
                let (part, out) = (&parts[r * n_kv_head + kv], kv * head_dim..(kv + 1) * head_dim);
                add_scaled(&mut dk[out.clone()], &part.dk[at..at + head_dim], 1.0);
                add_scaled(&mut dv[out], &part.dv[at..at + head_dim], 1.0);
            }
        }
    });
    Ok((
        Tensor::new(dq, (rows, n_head * head_dim))?,
        Tensor::new(dk, (keys, n_kv_head * head_dim))?,
        Tensor::new(dv, (keys, n_kv_head * head_dim))?,
    ))
}

/// A run of consecutive query blocks of a span.
struct Run {
    /// Rows of `q`.
    queries: Range<usize>,
    /// Rows of `k` that the span sees before its own rows.
    prefix: Range<usize>,
    /// The span's own rows of `k`, up to the run's last query.
    own: Range<usize>,
    blocks: Vec<Block>,
}

/// Splits a span into runs.
fn runs(span: &Span, heads: &Heads) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for block in blocks(span, heads) {
        let rows = span.queries.start + block.first..span.queries.start + block.first + block.rows;
        let own = span.own.start..span.own.start + block.first + block.rows;
        match runs.last_mut().filter(|run| run.queries.len() < RUN) {
            Some(run) => {
                run.queries.end = rows.end;
                run.own.end = own.end;
                run.blocks.push(block);
            }
            None => runs.push(Run { queries: rows, prefix: span.prefix.clone(), own, blocks: vec![block] }),
        }
    }
    runs
}

impl Run {
    /// Returns the index of a row of `k` among the run's keys.
    fn key(&self, row: usize) -> usize {
        if self.prefix.contains(&row) {
            row - self.prefix.start
        } else {
            self.prefix.len() + row - self.own.start
        }
    }
}

/// The runs that contain a row, as a query and as a key, in order.
struct Places {
    queries: Vec<Option<usize>>,
    keys: Vec<Vec<usize>>,
}

impl Places {
    fn of(runs: &[Run], rows: usize, keys: usize) -> Self {
        let mut places = Self { queries: vec![None; rows], keys: vec![Vec::new(); keys] };
        for (r, run) in runs.iter().enumerate() {
            places.queries[run.queries.clone()].fill(Some(r));
            for row in run.prefix.clone().chain(run.own.clone()) {
                places.keys[row].push(r);
            }
        }
        places
    }
}

struct Pass<'a> {
    inputs: Inputs<'a>,
    d_output: &'a [f32],
    output: &'a [f32],
    lse: &'a [f32],
}

/// A block of queries and a key head.
#[derive(Clone, Copy)]
struct Place<'a> {
    block: &'a Block,
    /// The row of the block's first query.
    first_row: usize,
    kv_head: usize,
}

/// The gradients of one run and key head: `dq [group, queries, head_dim]`, `dk` and `dv [keys, head_dim]`.
struct Part {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl Pass<'_> {
    fn run(&self, run: &Run, kv_head: usize) -> Part {
        let Heads { head_dim, .. } = *self.inputs.heads;
        let (group, keys) = (self.inputs.heads.group(), run.prefix.len() + run.own.len());
        let mut part = Part {
            dq: vec![0.0; group * run.queries.len() * head_dim],
            dk: vec![0.0; keys * head_dim],
            dv: vec![0.0; keys * head_dim],
        };
        let mut first_row = run.queries.start;
        let (mut p, mut ds) = (Vec::new(), Vec::new());
        for block in &run.blocks {
            let lanes = group * block.rows;
            p.resize(lanes * block.keys(), 0.0);
            ds.resize(lanes * block.keys(), 0.0);
            let q = self.inputs.gather(self.inputs.q, block, first_row, kv_head, self.inputs.heads.scale);
            let d_output = self.inputs.gather(self.d_output, block, first_row, kv_head, 1.0);
            let place = Place { block, first_row, kv_head };
            self.weights(place, (&q, &d_output), (&mut p, &mut ds));
            self.products(run, place, (&q, &d_output), (&p, &ds), &mut part);
            first_row += block.rows;
        }
        part
    }

    /// Recomputes `p [group·rows, keys]`, and from it `ds`, the gradient of the scaled products `q·k`.
    fn weights(
        &self,
        Place { block, first_row, kv_head }: Place,
        (q, d_output): (&[f32], &[f32]),
        (p, ds): (&mut [f32], &mut [f32]),
    ) {
        let Heads { n_head, head_dim, softcap, window, .. } = *self.inputs.heads;
        let group = self.inputs.heads.group();
        self.inputs.scores(block, kv_head, &self.inputs.packed(q, head_dim), p);
        let d_packed = self.inputs.packed(d_output, head_dim);
        self.inputs.against(self.inputs.v, block, kv_head, &d_packed, ds);
        for (i, d_output) in d_output.chunks_exact(head_dim).enumerate() {
            let at = (first_row + i % block.rows) * n_head + kv_head * group + i / block.rows;
            let delta = dot(d_output, &self.output[at * head_dim..(at + 1) * head_dim]);
            let range = i * block.keys()..(i + 1) * block.keys();
            let (p, ds) = (&mut p[range.clone()], &mut ds[range]);
            let visible = block.visible(i % block.rows, window);
            for masked in [0..visible.start, visible.end..block.keys()] {
                p[masked.clone()].fill(0.0);
                ds[masked].fill(0.0);
            }
            score_gradient(&mut p[visible.clone()], &mut ds[visible], self.lse[at], delta, softcap);
        }
    }

    /// Computes `dq = scale·ds·K`, `dk += dsᵀ·(scale·Q)` and `dv += pᵀ·dO`.
    fn products(
        &self,
        run: &Run,
        Place { block, first_row, kv_head }: Place,
        (q, d_output): (&[f32], &[f32]),
        (p, ds): (&[f32], &[f32]),
        part: &mut Part,
    ) {
        let Heads { head_dim, scale, .. } = *self.inputs.heads;
        let (keys, lanes) = (block.keys(), q.len() / head_dim);
        let mut dq = vec![0.0; q.len()];
        self.inputs.mix(self.inputs.k, block, kv_head, ds, &mut dq);
        for (i, dq) in dq.chunks_exact(head_dim).enumerate() {
            let (head, row) = (i / block.rows, first_row - run.queries.start + i % block.rows);
            let at = (head * run.queries.len() + row) * head_dim;
            add_scaled(&mut part.dq[at..at + head_dim], dq, scale);
        }
        for (at, rows) in block.runs() {
            let by_key = |x| {
                let x = Operand::strided(Elements::F32(x), rows.len(), lanes, 1, keys);
                Packed::serial(&x, self.inputs.precision)
            };
            let by_feature = |x| Operand::by_column(Elements::F32(x), lanes, head_dim);
            let window = run.key(rows.start) * head_dim..run.key(rows.end - 1) * head_dim + head_dim;
            let (ds, p) = (by_key(&ds[at..]), by_key(&p[at..]));
            let (dk, dv) = (&mut part.dk[window.clone()], &mut part.dv[window]);
            serial(dk, head_dim, &[Segment { a: &ds, b: by_feature(q) }], true);
            serial(dv, head_dim, &[Segment { a: &p, b: by_feature(d_output) }], true);
        }
    }
}

vectorised! {
    /// Replaces the scores `p` by the weights, and `ds` (on entry `dO·Vᵀ`) by the gradient of the scaled `q·k`.
    fn score_gradient(p: &mut [f32], ds: &mut [f32], lse: f32, delta: f32, softcap: Option<f32>) {
        match softcap {
            None => for (p, ds) in p.iter_mut().zip(ds) {
                *p = crate::ops::simd::exp::<FMA>(*p - lse);
                *ds = *p * (*ds - delta);
            },
            Some(c) => for (p, ds) in p.iter_mut().zip(ds) {
                // d cap(s)/ds = 1 − tanh² = 1 − (cap(s)/c)²
                let slope = 1.0 - (*p / c) * (*p / c);
                *p = crate::ops::simd::exp::<FMA>(*p - lse);
                *ds = *p * (*ds - delta) * slope;
            },
        }
    }
}
