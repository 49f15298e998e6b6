//! The kernels between projections and attention.

use super::{Angles, BLOCK, Kernels, NormAt, Qkv, Rows};
use crate::device::{Address, Arg, Kind};
use crate::error::Result;

/// Heads, norms and angles of queries and keys.
#[derive(Clone, Copy, Debug)]
pub(in crate::model::engine) struct Shape {
    pub(in crate::model::engine) bias: Address,
    pub(in crate::model::engine) clip: f32,
    pub(in crate::model::engine) q_norm: NormAt,
    pub(in crate::model::engine) k_norm: NormAt,
    pub(in crate::model::engine) norm_after: bool,
    pub(in crate::model::engine) q_angles: Angles,
    pub(in crate::model::engine) k_angles: Angles,
    pub(in crate::model::engine) interleaved: bool,
    pub(in crate::model::engine) heads: usize,
    pub(in crate::model::engine) kv_heads: usize,
    pub(in crate::model::engine) head_dim: usize,
    pub(in crate::model::engine) per_head: bool,
}

impl Kernels<'_> {
    /// Computes queries, keys and values from projected rows: bias, clipping, norms, rotation.
    pub(in crate::model::engine) fn qkv_forward(
        &self,
        y: Rows,
        shape: &Shape,
        kv_rows: Address,
        to: Qkv,
        rows: usize,
    ) -> Result<()> {
        let mut args = args![y.at, y.pitch].to_vec();
        args.extend_from_slice(&shape.args());
        args.extend_from_slice(args![kv_rows, to.q, to.k, to.v, rows]);
        let bytes = 2 * rows * shape.width() * self.size();
        let (name, taken) = match (shape.normed(), self.kind) {
            (true, _) => ("qkv_norm_forward", 1),
            (false, Kind::F32) => ("qkv_forward", 1),
            (false, Kind::Bf16) => ("qkv_forward", 2),
        };
        self.launch("qkv", name, shape.launch(rows, taken), &args, (bytes, 0))
    }

    /// Computes the gradient of the projected rows; `d` holds one part of keys and values for each query head.
    pub(in crate::model::engine) fn qkv_backward(
        &self,
        d: Qkv,
        y: Rows,
        shape: &Shape,
        dy: Rows,
        rows: usize,
    ) -> Result<()> {
        let mut args = args![d.q, d.k, d.v, y.at, y.pitch].to_vec();
        args.extend_from_slice(&shape.args());
        args.extend_from_slice(args![dy.at, dy.pitch, rows]);
        let bytes = rows * (shape.width() + 3 * shape.heads * shape.head_dim) * self.size();
        let name = if shape.normed() { "qkv_norm_backward" } else { "qkv_backward" };
        self.launch("qkv", name, shape.launch(rows, 1), &args, (bytes, 0))
    }
}

impl Shape {
    /// Total columns of queries, keys and values.
    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn normed(&self) -> bool {
        self.q_norm.kind != 0
    }

    /// Returns grid, threads and shared memory: one thread for 16 columns of `taken` rows, or one block for each row if
    /// the norms are not per head.
    fn launch(&self, rows: usize, taken: usize) -> ([usize; 2], usize, usize) {
        let (block, shared) = if self.normed() { (BLOCK, 4 * self.width()) } else { (BLOCK / 2, 0) };
        let by_rows = self.normed() && self.q_norm.size != self.head_dim;
        let threads = rows.div_ceil(taken) * self.width().div_ceil(16);
        ([if by_rows { rows } else { threads.div_ceil(block) }, 1], block, shared)
    }

    fn args(&self) -> Vec<Arg> {
        let (q, k) = (&self.q_norm, &self.k_norm);
        args![
            self.bias,
            self.clip,
            q.gain,
            q.bias,
            q.eps,
            q.size,
            q.gains,
            k.gain,
            k.bias,
            k.eps,
            k.size,
            k.gains,
            q.kind,
            i32::from(self.norm_after),
            self.q_angles.cos,
            self.q_angles.sin,
            self.q_angles.half,
            self.k_angles.cos,
            self.k_angles.sin,
            self.k_angles.half,
            self.q_angles.rows,
            self.k_angles.rows,
            i32::from(self.interleaved),
            self.heads,
            self.kv_heads,
            self.head_dim,
            i32::from(self.per_head),
        ]
        .to_vec()
    }
}
