//! A transformer block on the device.

use std::sync::Arc;

use super::kernels::{NormAt, Shape};
use super::lora::{Adapters, Mapped};
use super::weights::{NormOn, norm_at};
use crate::device::{Address, Backend, Kind};
use crate::error::Result;
use crate::model::attention::{Attention, Qkv};
use crate::model::block::Block;
use crate::model::mlp::{Maps, Mlp};
use crate::model::norm::Norm;
use crate::ops::gated_act::Activation;
use crate::ops::rope::Pairing;
use crate::ops::tree_attention::Heads;

use super::kernels::Angles;

/// A block's weights and settings.
pub(super) struct Layer {
    attention_norm: Option<NormOn>,
    pub(super) qkv: Mapped,
    per_head: bool,
    clip: Option<f32>,
    qk_norm: Option<(NormOn, NormOn)>,
    norm_after: bool,
    pub(super) heads: Heads,
    /// Indices of the rotations of queries and keys.
    rotation: Option<(usize, usize)>,
    pub(super) output: Mapped,
    post_attention_norm: Option<NormOn>,
    mlp_norm: Option<NormOn>,
    pub(super) mlp_in: Mapped,
    pub(super) gated: bool,
    pub(super) act: Activation,
    /// Features of the MLP's hidden layer.
    pub(super) width: usize,
    pub(super) down: Mapped,
    post_mlp_norm: Option<NormOn>,
    pub(super) parallel: bool,
    pub(super) scale: f32,
}

impl Layer {
    pub(super) fn new(
        device: &Arc<dyn Backend>,
        kind: Kind,
        block: &Block,
        adapters: &Adapters,
    ) -> Result<Self> {
        let norm = |norm: &Option<Norm>| norm.as_ref().map(|norm| NormOn::new(device, norm)).transpose();
        let Attention { qkv, clip, qk_norm, norm_after_rotation, heads, rotation, output } = &block.attention;
        let (qkv, per_head) = match qkv {
            Qkv::Separate([q, k, v]) => (vec![q, k, v], false),
            Qkv::Fused { projection, per_head } => (vec![projection], *per_head),
        };
        let Mlp { input, down, act } = &block.mlp;
        let (mlp_in, gated) = match input {
            Maps::Gated { gate, up } => (vec![gate, up], true),
            Maps::Fused(both) => (vec![both], true),
            Maps::Plain(up) => (vec![up], false),
        };
        let qk_norm = match qk_norm {
            Some((q, k)) => Some((NormOn::new(device, q)?, NormOn::new(device, k)?)),
            None => None,
        };
        let mapped = |projections: &[&_]| Mapped::new(device, kind, projections, adapters);
        Ok(Self {
            attention_norm: norm(&block.attention_norm)?,
            qkv: mapped(&qkv)?,
            per_head,
            clip: *clip,
            qk_norm,
            norm_after: *norm_after_rotation,
            heads: *heads,
            rotation: *rotation,
            output: mapped(&[output])?,
            post_attention_norm: norm(&block.post_attention_norm)?,
            mlp_norm: norm(&block.mlp_norm)?,
            mlp_in: mapped(&mlp_in)?,
            gated,
            act: *act,
            width: down.linear.inputs(),
            down: mapped(&[down])?,
            post_mlp_norm: norm(&block.post_mlp_norm)?,
            parallel: block.parallel,
            scale: block.residual_scale,
        })
    }

    pub(super) fn mapped(&self) -> [&Mapped; 4] {
        [&self.qkv, &self.output, &self.mlp_in, &self.down]
    }

    pub(super) fn attention_norm(&self) -> NormAt {
        norm_at(&self.attention_norm)
    }

    /// The norm before the MLP: its own, or attention's in a parallel block without one.
    pub(super) fn mlp_norm(&self) -> NormAt {
        match (&self.mlp_norm, self.parallel) {
            (None, true) => self.attention_norm(),
            (norm, _) => norm_at(norm),
        }
    }

    /// Returns whether attention and MLP read the same normalised input.
    pub(super) fn shares_input(&self) -> bool {
        self.parallel && self.mlp_norm.is_none()
    }

    pub(super) fn post_attention_norm(&self) -> NormAt {
        norm_at(&self.post_attention_norm)
    }

    pub(super) fn post_mlp_norm(&self) -> NormAt {
        norm_at(&self.post_mlp_norm)
    }

    /// Returns whether the backward pass needs queries and keys as projected.
    pub(super) fn keeps_projected(&self) -> bool {
        self.qk_norm.is_some() || self.clip.is_some()
    }

    /// Describes how queries and keys are computed, given the angles of all rotations.
    pub(super) fn shape(&self, angles: &[Angles], interleaved: impl Fn(usize) -> bool) -> Shape {
        let norm = |norm: Option<&NormOn>| norm.map_or_else(NormAt::default, NormOn::at);
        let of = |index: Option<usize>| index.map_or_else(Angles::default, |i| angles[i]);
        Shape {
            bias: self.qkv.group.bias(),
            clip: self.clip.unwrap_or(0.0),
            q_norm: norm(self.qk_norm.as_ref().map(|(q, _)| q)),
            k_norm: norm(self.qk_norm.as_ref().map(|(_, k)| k)),
            norm_after: self.norm_after,
            q_angles: of(self.rotation.map(|(q, _)| q)),
            k_angles: of(self.rotation.map(|(_, k)| k)),
            interleaved: self.rotation.is_some_and(|(_, k)| interleaved(k)),
            heads: self.heads.n_head,
            kv_heads: self.heads.n_kv_head,
            head_dim: self.heads.head_dim,
            per_head: self.per_head,
        }
    }

    /// The width of the queries, and the width of the keys or values.
    pub(super) fn widths(&self) -> (usize, usize) {
        (self.heads.n_head * self.heads.head_dim, self.heads.n_kv_head * self.heads.head_dim)
    }

    pub(super) fn output_bias(&self) -> Address {
        self.output.group.bias()
    }
}

/// Returns whether a rotation pairs neighbouring features.
pub(super) fn is_interleaved(pairing: Pairing) -> bool {
    pairing == Pairing::Interleaved
}
