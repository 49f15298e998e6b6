//! Attention over packed prefix trees: a completion sees its prompt and itself, never its sibling.
//!
//! `o_i = Σ_j p_ij·v_j`, `p_i = softmax_j(cap(scale·q_i·k_j))` over the visible `j`, where `cap(s) = c·tanh(s/c)` if
//! there is a soft-cap (Gemma 2). Scores exist for only one block of queries of one head at a time, so memory is linear
//! in `T`; the backward pass recomputes them from the saved log-sum-exp (Dao et al. 2022, arXiv 2205.14135). Query
//! heads that share keys (grouped-query attention) are stacked as the rows of one product, over keys and values that
//! are read in place.
//!
//! With `D_i = Σ do_i·o_i`: `dV = Pᵀ·dO`, `dS = P∘(dO·Vᵀ − D)`, `dQ = scale·dS·K`, `dK = scale·dSᵀ·Q`; siblings add
//! their parts to the prompt's `dK` and `dV`.

mod backward;
mod forward;
mod group;
#[cfg(test)]
mod plain;
mod runs;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::ops::Range;

use super::gemm::Precision;
use crate::ops::Tensor;

pub use backward::backward;
pub use forward::{forward, forward_after};

/// The attention heads and how scores are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Number of query heads.
    pub n_head: usize,
    /// Number of key and value heads; divides `n_head`.
    pub n_kv_head: usize,
    /// Number of features per head.
    pub head_dim: usize,
    /// Factor of `q·k`.
    pub scale: f32,
    /// `c` of the soft-cap.
    pub softcap: Option<f32>,
    /// A query at position p sees keys at positions above `p − window`.
    pub window: Option<usize>,
}

impl Heads {
    /// Returns the number of query heads that share a key head.
    fn group(&self) -> usize {
        self.n_head / self.n_kv_head.max(1)
    }

    /// Returns the number of queries per block: about twelve register tiles of rows, counting all heads of a group.
    fn block(&self) -> usize {
        (144 / self.group().max(1) / 12 * 12).clamp(12, 48)
    }

    /// Returns the floating-point operations of one product over all visible pairs of queries and keys, for all heads.
    pub fn flop(&self, trees: &[TreeSpans]) -> usize {
        let pairs = |span: &Span| {
            let n = span.queries.len();
            match self.window {
                None => n * span.prefix.len() + n * (n + 1) / 2,
                Some(w) => (0..n).map(|i| (span.prefix.len() + i + 1).min(w)).sum(),
            }
        };
        2 * self.n_head * self.head_dim * trees.iter().flat_map(|tree| &tree.spans).map(pairs).sum::<usize>()
    }
}

/// A run of queries and the keys they see: all of a prefix, and their own run causally. Positions count from the start
/// of the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows of `q`.
    pub queries: Range<usize>,
    /// Rows of `k` and `v` before them.
    pub prefix: Range<usize>,
    /// Rows of `k` and `v` of the queries themselves; as many as `queries`.
    pub own: Range<usize>,
}

/// The spans that share keys: a prompt and its completions. Their rows lie within `rows`, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeSpans {
    /// Rows of `q` (and of `k`, `v` in a packed batch) of the whole tree.
    pub rows: Range<usize>,
    /// Its spans, in row order.
    pub spans: Vec<Span>,
}

/// Queries, and the keys and values they attend to.
#[derive(Clone, Copy)]
pub struct Attended<'a> {
    /// Queries `[Tq, n_head·head_dim]`.
    pub q: &'a Tensor,
    /// Keys `[Tk, n_kv_head·head_dim]`.
    pub k: &'a Tensor,
    /// Values `[Tk, n_kv_head·head_dim]`.
    pub v: &'a Tensor,
    /// The division into heads.
    pub heads: &'a Heads,
    /// The precision to which the products' operands are rounded.
    pub precision: Precision,
    /// Determines which query sees which key.
    pub trees: &'a [TreeSpans],
}

/// The keys and values of one tree, apart from those of other trees: `[Tk, n_kv_head·head_dim]` each.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
}

/// The state that the forward pass saves for the backward pass.
#[derive(Debug)]
pub struct Saved {
    /// Output `[T, n_head·head_dim]`.
    pub output: Tensor,
    /// Log-sum-exp of the scores `[T, n_head]`.
    pub lse: Vec<f32>,
}

/// A block of a span's queries and the keys that any of them sees.
#[derive(Clone)]
struct Block {
    /// Offset of the first query in its span.
    first: usize,
    /// Number of queries in the block.
    rows: usize,
    /// Keys of the prefix, as rows of `k`.
    prefix: Range<usize>,
    /// Keys of the span's own run, as rows of `k`.
    own: Range<usize>,
    /// Position of key 0 of the block.
    origin: usize,
    /// Position of query 0 of the block.
    position: usize,
}

impl Block {
    fn keys(&self) -> usize {
        self.prefix.len() + self.own.len()
    }

    /// Returns the nonempty runs of its keys: the index of the first among the block's keys, and their rows.
    fn runs(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let runs = [(0, self.prefix.clone()), (self.prefix.len(), self.own.clone())];
        runs.into_iter().filter(|(_, rows)| !rows.is_empty())
    }

    /// Returns the range of the block's keys that query `row` sees.
    fn visible(&self, row: usize, window: Option<usize>) -> Range<usize> {
        let position = self.position + row;
        let from = window.map_or(0, |w| (position + 1).saturating_sub(w).saturating_sub(self.origin));
        from..position + 1 - self.origin
    }
}

/// Splits a span into blocks.
fn blocks(span: &Span, heads: &Heads) -> impl Iterator<Item = Block> + use<> {
    blocks_of(span, heads.block(), heads.window)
}

/// Splits a span into blocks of `size` queries.
fn blocks_of(span: &Span, size: usize, window: Option<usize>) -> impl Iterator<Item = Block> + use<> {
    let (prefix, own, count) = (span.prefix.clone(), span.own.clone(), span.queries.len());
    (0..count).step_by(size).map(move |first| {
        let rows = size.min(count - first);
        let position = prefix.len() + first;
        // The block's first query reaches back furthest.
        let origin = window.map_or(0, |w| (position + 1).saturating_sub(w));
        Block {
            first,
            rows,
            prefix: (prefix.start + origin).min(prefix.end)..prefix.end,
            own: own.start + origin.saturating_sub(prefix.len())..own.start + first + rows,
            origin,
            position,
        }
    })
}

#[cfg(test)]
mod tests;
