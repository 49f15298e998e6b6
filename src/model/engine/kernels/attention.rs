//! The attention kernels, in the versions that suit the heads.

use super::{Attention, Kernels, Qkv, Rows};
use crate::device::{Address, Arg, Kind, Launch};
use crate::error::Result;

impl Kernels<'_> {
    /// Selects the version of an attention kernel for these heads: module, name, threads, shared memory.
    fn attention(&self, name: &str, a: &Attention) -> (&'static str, String, usize, usize) {
        const PADDED: [(usize, &str); 4] =
            [(64, "attention_64"), (96, "attention_96"), (128, "attention_128"), (256, "attention_256")];
        // The smallest heads waste most of a tile of 64.
        let fits = self.kind == Kind::Bf16 && a.head_dim.is_multiple_of(8) && a.head_dim > 32;
        match PADDED.into_iter().find(|(padded, _)| fits && a.head_dim <= *padded) {
            Some((padded, module)) => {
                let (block, shared) = mma_launch(name, padded);
                (module, format!("{name}_mma_{padded}"), block, shared)
            }
            None => {
                let (block, shared) = plain_launch(name, a.head_dim);
                ("attention", format!("{name}_{}", self.kind.name()), block, shared)
            }
        }
    }

    fn launch_attention(
        &self,
        name: &str,
        a: &Attention,
        tiles: usize,
        args: &[Arg],
        products: usize,
    ) -> Result<()> {
        let (module, name, block, shared) = self.attention(name, a);
        let (grid, flop) = ([tiles, a.heads], products * a.flop);
        self.device.launch(&Launch { module, name: &name, grid, block, shared, args, bytes: 0, flop })
    }

    /// Computes `o`, and the log-sum-exp of every query and head.
    pub(in crate::model::engine) fn attention_forward(
        &self,
        x: Qkv,
        a: &Attention,
        o: Rows,
        lse: Address,
    ) -> Result<()> {
        let args = args![
            x.q, x.k, x.v, a.tiles, o.at, o.pitch, lse, a.heads, a.kv_heads, a.head_dim, a.scale, a.softcap,
            a.window,
        ];
        self.launch_attention("attention_forward", a, a.tile_count, args, 2)
    }

    /// Computes `Σ do·o` for every row and head.
    pub(in crate::model::engine) fn attention_delta(
        &self,
        (d_o, o): (Rows, Rows),
        delta: Address,
        a: &Attention,
        rows: usize,
    ) -> Result<()> {
        let args = args![d_o.at, d_o.pitch, o.at, o.pitch, delta, a.heads, a.head_dim];
        let bytes = 2 * rows * a.heads * a.head_dim * self.size();
        self.launch("attention", "attention_delta", ([rows, 1], 128, 0), args, (bytes, 0))
    }

    /// Computes the gradients of queries, keys and values; keys and values get one part for each query head.
    pub(in crate::model::engine) fn attention_backward(
        &self,
        x: Qkv,
        d_o: Rows,
        (lse, delta): (Address, Address),
        a: &Attention,
        d: Qkv,
    ) -> Result<()> {
        let keys = args![
            x.q,
            x.k,
            x.v,
            d_o.at,
            d_o.pitch,
            lse,
            delta,
            a.key_tiles,
            a.positions,
            d.k,
            d.v,
            a.heads,
            a.kv_heads,
            a.head_dim,
            a.scale,
            a.softcap,
            a.window,
        ];
        self.launch_attention("attention_backward_kv", a, a.key_tile_count, keys, 4)?;
        let queries = args![
            x.q, x.k, x.v, d_o.at, d_o.pitch, lse, delta, a.tiles, d.q, a.heads, a.kv_heads, a.head_dim,
            a.scale, a.softcap, a.window,
        ];
        self.launch_attention("attention_backward_q", a, a.tile_count, queries, 3)
    }
}

/// Returns the threads and the bytes of shared memory of the tensor-core versions; `attention.cu` describes the
/// contents.
fn mma_launch(name: &str, padded: usize) -> (usize, usize) {
    let row = 2 * (padded + 8);
    match (name, padded) {
        ("attention_forward", 256) => (128, 192 * row),
        ("attention_forward", _) => (128, 320 * row),
        ("attention_backward_kv", 64) => (128, 384 * row + 1536),
        ("attention_backward_kv", 256) => (256, 256 * row + 768),
        ("attention_backward_kv", _) => (128, 256 * row + 768),
        (_, 256) => (128, 256 * row),
        _ => (128, 384 * row),
    }
}

/// Returns the same for the plain versions.
fn plain_launch(name: &str, head_dim: usize) -> (usize, usize) {
    let rows = if name == "attention_forward" { 80 } else { 96 };
    (128, 4 * (rows * head_dim + 64))
}
