//! The backward pass in tiles, with one task per run of query blocks and key head.
//!
//! Scores are computed with keys as rows, so that weights `Pᵀ` and gradients `dSᵀ` leave the squares as the left operands
//! of `dV = Pᵀ·dO` and `dK = dSᵀ·Q` and as the right operand of `dQᵀ = Kᵀ·dSᵀ`. Each of the three sums stays in registers
//! over all queries, or all keys, of the run.

use std::cell::RefCell;
use std::ops::Range;

use super::super::runs::{Part, Pass, Run, gradients, runs};
use super::super::{Attended, Block, Heads, blocks_of};
use super::keys::{self, Packed, Way};
use super::squares::{Queries, Weights, weights};
use super::view::View;
use crate::ops::gemm::panels::{Chunk, SIDE, Square, Tiler};
use crate::ops::gemm::{Elements, Operand};
use crate::ops::simd::{dot, scale_into};

/// Approximate number of query rows per run, counting all heads of a group: their panels fit the second-level cache. A
/// constant, so that the order of sums is fixed.
const RUN: usize = 576;

/// Returns the runs of a batch, and for each of them and each key head its gradients.
pub(in super::super) fn parts<'a>(pass: &Pass, attended: &Attended<'a>) -> (Vec<Run<'a>>, Vec<Part>) {
    let Attended { heads, trees, .. } = *attended;
    let packed = Packed::new(trees, heads, (pass.inputs.k, pass.inputs.v), Way::Backward);
    let size = (RUN / heads.group().max(1)).clamp(2 * SIDE, 6 * SIDE);
    let runs = runs(trees, size, |span| blocks_of(span, SIDE, heads.window));
    let parts = gradients(&runs, heads, |run, kv_head| {
        let mut part = Part::zeros(run, heads);
        if let Some(tiler) = Tiler::new() {
            BUFFERS.with_borrow_mut(|buffers| {
                let task = Task { pass, run, kv_head, packed: &packed, tiler };
                task.compute(buffers, &mut part);
            });
        }
        part
    });
    (runs, parts)
}

thread_local! {
    /// Panels of a run, kept between tasks.
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// The panels of a run. A panel of queries belongs to a block and a head, and the heads of a block follow each other.
#[derive(Default)]
struct Buffers {
    /// Scaled queries, and output gradients, as right panels: for each panel of queries, the chunks of its features.
    q: Vec<Chunk>,
    d: Vec<Chunk>,
    /// The same by feature: for each 32 features, a chunk for each panel of queries.
    q_by_feature: Vec<Chunk>,
    d_by_feature: Vec<Chunk>,
    /// Weights and gradients of the scores of 32 keys, a chunk for each panel of queries.
    p: Vec<Chunk>,
    ds: Vec<Chunk>,
    /// The latter with queries as lanes: for each panel of queries, a chunk for each panel of keys.
    ds_by_query: Vec<Chunk>,
    /// For each panel of queries, log-sum-exp and `Σ do·o` of each query.
    lse: Vec<[f32; SIDE]>,
    delta: Vec<[f32; SIDE]>,
}

impl Buffers {
    /// Makes room for so many panels of queries and of keys, and chunks of features.
    fn fit(&mut self, queries: usize, keys: usize, chunks: usize) {
        let fit = |buffer: &mut Vec<Chunk>, size: usize| {
            if buffer.len() < size {
                buffer.resize(size, Chunk::ZERO);
            }
        };
        for buffer in [&mut self.q, &mut self.d, &mut self.q_by_feature, &mut self.d_by_feature] {
            fit(buffer, queries * chunks);
        }
        fit(&mut self.p, queries);
        fit(&mut self.ds, queries);
        fit(&mut self.ds_by_query, queries * keys);
        self.lse.resize(queries.max(self.lse.len()), [0.0; SIDE]);
        self.delta.resize(queries.max(self.delta.len()), [0.0; SIDE]);
    }
}

struct Task<'a> {
    pass: &'a Pass<'a>,
    run: &'a Run<'a>,
    kv_head: usize,
    packed: &'a Packed,
    tiler: Tiler,
}

impl Task<'_> {
    fn heads(&self) -> &Heads {
        self.pass.inputs.heads
    }

    /// Number of panels of queries.
    fn panels(&self) -> usize {
        self.run.blocks.len() * self.heads().group()
    }

    fn compute(&self, buffers: &mut Buffers, part: &mut Part) {
        let (run, group) = (self.run, self.heads().group());
        let origin = run.blocks.first().map_or(0, |block| block.origin);
        let view = View::new(run.span.prefix.len(), run.own.len(), origin);
        buffers.fit(self.panels(), view.panels.len(), self.chunks());
        let mut gathered = Vec::new();
        for (index, block) in run.blocks.iter().enumerate() {
            for of_group in 0..group {
                self.pack(index * group + of_group, block, of_group, &mut gathered, buffers);
            }
        }
        for panel in 0..view.panels.len() {
            self.keys(&view, panel, buffers, part);
        }
        for (index, block) in run.blocks.iter().enumerate() {
            for of_group in 0..group {
                self.queries(&view, (index * group + of_group, block, of_group), buffers, part);
            }
        }
    }

    /// Chunks of the features of a head.
    fn chunks(&self) -> usize {
        self.heads().head_dim.div_ceil(SIDE)
    }

    /// Packs the queries and output gradients of a block and a head.
    fn pack(
        &self,
        panel: usize,
        block: &Block,
        of_group: usize,
        gathered: &mut Vec<f32>,
        buffers: &mut Buffers,
    ) {
        let Heads { n_head, head_dim, scale, .. } = *self.heads();
        let (chunks, panels) = (self.chunks(), self.panels());
        let head = self.kv_head * self.heads().group() + of_group;
        let first_row = self.run.span.queries.start + block.first;
        let at = |row: usize| (first_row + row) * n_head + head;
        let Buffers { q, d, q_by_feature, d_by_feature, lse, delta, .. } = buffers;
        for (from, factor, to, by_feature) in
            [(self.pass.inputs.q, scale, q, q_by_feature), (self.pass.d_output, 1.0, d, d_by_feature)]
        {
            gathered.resize(block.rows * head_dim, 0.0);
            for (row, to) in gathered.chunks_exact_mut(head_dim).enumerate() {
                scale_into(to, &from[at(row) * head_dim..][..head_dim], factor);
            }
            let rows = Operand::by_row(Elements::F32(gathered), block.rows, head_dim);
            self.tiler.right(&rows, 0, &mut to[panel * chunks..][..chunks]);
            let columns = Operand::by_column(Elements::F32(gathered), block.rows, head_dim);
            for feature in 0..chunks {
                let to = &mut by_feature[feature * panels + panel..][..1];
                self.tiler.right(&columns, feature * SIDE, to);
            }
        }
        // `gathered` holds the output gradients.
        (lse[panel], delta[panel]) = ([0.0; SIDE], [0.0; SIDE]);
        for (row, d_output) in gathered.chunks_exact(head_dim).enumerate() {
            lse[panel][row] = self.pass.lse[at(row)];
            delta[panel][row] = dot(d_output, &self.pass.output[at(row) * head_dim..][..head_dim]);
        }
    }

    /// The runs of keys of the prefix and of the span.
    fn runs(&self) -> [Option<&keys::Run>; 2] {
        [&self.run.span.prefix, &self.run.span.own].map(|range| self.packed.run(range, self.kv_head))
    }

    /// Computes the weights of a panel of keys for all queries, and from them its `dk` and `dv`.
    fn keys(&self, view: &View, index: usize, buffers: &mut Buffers, part: &mut Part) {
        let Heads { head_dim, window, .. } = *self.heads();
        let (chunks, panels, group) = (self.chunks(), self.panels(), self.heads().group());
        let panel = view.panels[index];
        let Some(run) = view.run(index, self.runs()) else { return };
        let seen = within(&self.run.blocks, |block| panel.is_seen(block, window));
        let of_panel = panel.index * chunks..(panel.index + 1) * chunks;
        let (k, v) = (&run.k[of_panel.clone()], &run.v[of_panel]);
        let (mut s, mut dp) = (Square::ZERO, Square::ZERO);
        for block in seen.clone() {
            let bits = panel.queries_of(&self.run.blocks[block], window);
            for i in block * group..(block + 1) * group {
                let features = i * chunks..(i + 1) * chunks;
                self.tiler.multiply(&[(k, &buffers.q[features.clone()])], &mut s, panel.keys);
                self.tiler.multiply(&[(v, &buffers.d[features])], &mut dp, panel.keys);
                let to = Weights {
                    p: &mut buffers.p[i],
                    ds: &mut buffers.ds[i],
                    ds_by_query: &mut buffers.ds_by_query[i * view.panels.len() + index],
                };
                weights(
                    &self.tiler,
                    &s,
                    &dp,
                    &Queries { lse: &buffers.lse[i], delta: &buffers.delta[i] },
                    &bits,
                    to,
                );
            }
        }
        let seen = seen.start * group..seen.end * group;
        for feature in 0..chunks {
            let of_queries = feature * panels + seen.start..feature * panels + seen.end;
            let columns = (head_dim - feature * SIDE).min(SIDE);
            for (left, right, to) in [
                (&buffers.ds, &buffers.q_by_feature, &mut part.dk),
                (&buffers.p, &buffers.d_by_feature, &mut part.dv),
            ] {
                let pair = (&left[seen.clone()], &right[of_queries.clone()]);
                self.tiler.multiply(&[pair], &mut s, panel.keys);
                for key in 0..panel.keys {
                    let to = &mut to[(panel.position + key) * head_dim + feature * SIDE..][..columns];
                    to.copy_from_slice(&s.row(key)[..columns]);
                }
            }
        }
    }

    /// Computes `dq` of a block and a head.
    fn queries(
        &self,
        view: &View,
        (index, block, of_group): (usize, &Block, usize),
        buffers: &Buffers,
        part: &mut Part,
    ) {
        let Heads { head_dim, scale, window, .. } = *self.heads();
        let (chunks, count) = (self.chunks(), view.panels.len());
        let seen = within(&view.panels, |panel| panel.is_seen(block, window));
        let ds = &buffers.ds_by_query[index * count..][seen.clone()];
        let (mut by_feature, mut by_query) = (Square::ZERO, Square::ZERO);
        for feature in 0..chunks {
            let columns = (head_dim - feature * SIDE).min(SIDE);
            let keys = |run| keys_of(run, feature, chunks);
            let parts = view.parts(seen.clone(), self.runs(), keys, ds);
            self.tiler.multiply(&parts, &mut by_feature, columns);
            self.tiler.transpose(&by_feature, &mut by_query);
            for row in 0..block.rows {
                let at = of_group * self.run.queries.len() + block.first + row
                    - (self.run.queries.start - self.run.span.queries.start);
                let to = &mut part.dq[at * head_dim + feature * SIDE..][..columns];
                scale_into(to, &by_query.row(row)[..columns], scale);
            }
        }
    }
}

fn keys_of(run: &keys::Run, feature: usize, chunks: usize) -> (&[Chunk], usize) {
    keys::feature(&run.k_by_feature, feature, chunks)
}

/// Returns the range of the consecutive items for which `is` holds.
fn within<T>(items: &[T], is: impl Fn(&T) -> bool) -> Range<usize> {
    let start = items.iter().position(&is).unwrap_or(items.len());
    start..start + items[start..].iter().take_while(|item| is(item)).count()
}
