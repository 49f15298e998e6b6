//! The backward pass, with one task per run of query blocks and key head. The parts of the runs are added in row order,
//! so that the order of sums is fixed.

use super::group::Inputs;
use super::runs::{Part, Pass, Run, gradients, runs};
use super::{Attended, Block, Heads, Saved, blocks};
use crate::error::Result;
use crate::ops::Tensor;
use crate::ops::gemm::{Elements, Operand, Packed, Segment, serial};
use crate::ops::host;
use crate::ops::simd::{add_scaled, dot, vectorised};

/// Approximate number of query rows per run; a constant, so that the order of sums is fixed.
const RUN: usize = 192;

/// Returns the runs of a batch, and for each of them and each key head its gradients.
fn parts<'a>(pass: &Pass, attended: &Attended<'a>) -> (Vec<Run<'a>>, Vec<Part>) {
    #[cfg(target_arch = "x86_64")]
    if super::tiles::fits(attended) {
        return super::tiles::parts(pass, attended);
    }
    let heads = attended.heads;
    let runs = runs(attended.trees, RUN, |span| blocks(span, heads));
    let parts = gradients(&runs, heads, |run, kv_head| pass.run(run, kv_head));
    (runs, parts)
}

/// Returns the gradients of `q`, `k` and `v` of a packed batch. There may be more rows of keys than of queries.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn backward(d_output: &Tensor, attended: &Attended, saved: &Saved) -> Result<(Tensor, Tensor, Tensor)> {
    let Attended { q, k, v, heads, precision, .. } = *attended;
    let (rows, keys) = (q.shape().0, k.shape().0);
    let (d_output, output) = (d_output.numbers(), saved.output.numbers());
    let (q, k, v) = (q.numbers(), k.numbers(), v.numbers());
    let pass = Pass { inputs: Inputs { q, k, v, heads, precision }, d_output, output, lse: &saved.lse };
    let Heads { n_head, n_kv_head, head_dim, .. } = *heads;
    let (runs, parts) = parts(&pass, attended);

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
            for row in run.span.prefix.clone().chain(run.own.clone()) {
                places.keys[row].push(r);
            }
        }
        places
    }
}

/// A block of queries and a key head.
#[derive(Clone, Copy)]
struct Place<'a> {
    block: &'a Block,
    /// The row of the block's first query.
    first_row: usize,
    kv_head: usize,
}

impl Pass<'_> {
    fn run(&self, run: &Run, kv_head: usize) -> Part {
        let group = self.inputs.heads.group();
        let mut part = Part::zeros(run, self.inputs.heads);
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
