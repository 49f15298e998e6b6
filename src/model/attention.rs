//! Attention of a block: projections, query and key norms, rotation, the tree attention, output projection.

use candle_core::{Device, Tensor};

use super::cache::LayerCache;
use super::norm::Norm;
use super::pass::Context;
use super::projection::{self, Projection, Saved as Kept};
use super::spec::{AttentionSpec, QkvSpec};
use super::tensors::Tensors;
use crate::error::Result;
use crate::ops::gemm::Precision;
use crate::ops::gradient::Gradient;
use crate::ops::lora_linear::Input;
use crate::ops::profile::timed;
use crate::ops::rope::{self, Rotation};
use crate::ops::rows;
use crate::ops::tree_attention::{self, Heads, TreeSpans};

/// Attention with its weights.
#[derive(Debug)]
pub struct Attention {
    qkv: Qkv,
    qk_norm: Option<(Norm, Norm)>,
    heads: Heads,
    rotation: Option<usize>,
    output: Projection,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one a layer, and most families have the large one")]
enum Qkv {
    Separate([Projection; 3]),
    /// `[q; k; v]`, or, `per_head`, the same of each head in turn.
    Fused {
        projection: Projection,
        per_head: bool,
    },
}

/// The rows of a pass: which see which, where they stand, and whose output is of use.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Visibility.
    pub trees: &'a [TreeSpans],
    /// One rotation for each of the spec's.
    pub rotations: &'a [Rotation],
    /// The `W` rows whose output is wanted, ascending and distinct; `None`: all `T`. The others are keys and values only.
    pub wanted: Option<&'a [u32]>,
}

impl<'a> Rows<'a> {
    /// The same rows, of which these outputs are wanted.
    pub fn only(self, wanted: &'a [u32]) -> Self {
        Self { wanted: Some(wanted), ..self }
    }

    /// The wanted rows of `x`: `[T, n] → [W, n]`.
    ///
    /// # Errors
    /// If a row is none of `x`.
    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        self.wanted.map_or_else(|| Ok(x.clone()), |wanted| rows::gather(x, wanted))
    }

    /// Their gradient, zero elsewhere: `[W, n] → [T, n]`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn back(&self, dy: &Tensor, total: usize) -> Result<Tensor> {
        self.wanted.map_or_else(|| Ok(dy.clone()), |wanted| rows::scatter_add(dy, wanted, total))
    }
}

/// What attention's backward pass needs.
#[derive(Debug)]
pub struct Saved {
    projections: Vec<Kept>,
    /// Queries and keys before their norms.
    raw: Option<(Tensor, Tensor)>,
    /// As attention sees them.
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention: tree_attention::Saved,
    output: Kept,
}

impl Attention {
    /// Reads the weights; `next` numbers the projections.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(spec: &AttentionSpec, tensors: &Tensors, device: &Device, next: &mut u64) -> Result<Self> {
        let qkv = match &spec.qkv {
            QkvSpec::Separate([q, k, v]) => Qkv::Separate([
                Projection::load(q, tensors, next)?,
                Projection::load(k, tensors, next)?,
                Projection::load(v, tensors, next)?,
            ]),
            QkvSpec::Stacked(one) => {
                Qkv::Fused { projection: Projection::load(one, tensors, next)?, per_head: false }
            }
            QkvSpec::PerHead(one) => {
                Qkv::Fused { projection: Projection::load(one, tensors, next)?, per_head: true }
            }
        };
        let norms = spec.qk_norm.as_ref();
        let qk_norm = norms
            .map(|(q, k)| {
                Ok::<_, crate::error::Error>((
                    Norm::load(q, tensors, device)?,
                    Norm::load(k, tensors, device)?,
                ))
            })
            .transpose()?;
        let output = Projection::load(&spec.output, tensors, next)?;
        Ok(Self { qkv, qk_norm, heads: spec.heads, rotation: spec.rotation, output })
    }

    /// `x [T, hidden] → [W, hidden]`, the wanted rows. With a cache the keys and values of earlier rows are seen, and these appended.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(
        &self,
        x: &Tensor,
        rows: &Rows,
        context: &Context,
        cache: Option<&mut LayerCache>,
    ) -> Result<(Tensor, Saved)> {
        let (q, k, v, projections) = self.project(&Input::new(x.clone()), context)?;
        let (q, k, raw) = match &self.qk_norm {
            None => (q, k, None),
            Some((q_norm, k_norm)) => (q_norm.forward(&q)?, k_norm.forward(&k)?, Some((q, k))),
        };
        let (q, mut k, mut v) = match self.rotation {
            None => (q, k, v),
            Some(index) => (self.turn(&q, rows, index)?, self.turn(&k, rows, index)?, v),
        };
        if let Some(cache) = cache {
            (k, v) = cache.append(&k, &v)?;
        }
        let flop = self.heads.flop(rows.trees);
        let attention = timed("tree attention forward", 2 * flop, || {
            tree_attention::forward(&q, &k, &v, &self.heads, self.precision(), rows.trees)
        })?;
        let (y, output) = self.output.forward(&Input::new(rows.of(&attention.output)?), context)?;
        Ok((y, Saved { projections, raw, q, k, v, attention, output }))
    }

    /// Attention's own products are rounded as those of its output projection, but to bf16 where those are of quantised
    /// weights.
    fn precision(&self) -> Precision {
        match self.output.linear.precision() {
            Precision::F32 => Precision::F32,
            Precision::Bf16 | Precision::Fixed => Precision::Bf16,
        }
    }

    fn turn(&self, x: &Tensor, rows: &Rows, index: usize) -> Result<Tensor> {
        timed("rope", 0, || rope::forward(x, &rows.rotations[index], self.heads.head_dim))
    }

    /// Queries, keys and values, `[T, n·head_dim]` each.
    fn project(&self, x: &Input, context: &Context) -> Result<(Tensor, Tensor, Tensor, Vec<Kept>)> {
        match &self.qkv {
            Qkv::Separate([q, k, v]) => {
                let ((q, q_kept), (k, k_kept)) = (q.forward(x, context)?, k.forward(x, context)?);
                let (v, v_kept) = v.forward(x, context)?;
                Ok((q, k, v, vec![q_kept, k_kept, v_kept]))
            }
            Qkv::Fused { projection, per_head } => {
                let (y, kept) = projection.forward(x, context)?;
                let (q, k, v) = self.split(&y, *per_head)?;
                Ok((q, k, v, vec![kept]))
            }
        }
    }

    /// Widths of queries and of keys (or values).
    fn widths(&self) -> (usize, usize) {
        (self.heads.n_head * self.heads.head_dim, self.heads.n_kv_head * self.heads.head_dim)
    }

    fn split(&self, y: &Tensor, per_head: bool) -> Result<(Tensor, Tensor, Tensor)> {
        let (rows, _) = y.dims2()?;
        let (q, kv) = self.widths();
        let part = |i: usize| -> Result<Tensor> {
            if per_head {
                let by_head = y.reshape((rows, self.heads.n_head, 3, self.heads.head_dim))?;
                return Ok(by_head.narrow(2, i, 1)?.reshape((rows, q))?.contiguous()?);
            }
            let (start, width) = [(0, q), (q, kv), (q + kv, kv)][i];
            Ok(y.narrow(1, start, width)?.contiguous()?)
        };
        Ok((part(0)?, part(1)?, part(2)?))
    }

    fn join(&self, parts: [&Tensor; 3], per_head: bool) -> Result<Tensor> {
        if !per_head {
            return Ok(Tensor::cat(&parts, 1)?);
        }
        let (rows, width) = parts[0].dims2()?;
        let by_head = (rows, self.heads.n_head, self.heads.head_dim);
        let [q, k, v] = parts.map(|part| part.reshape(by_head));
        Ok(Tensor::stack(&[q?, k?, v?], 2)?.reshape((rows, 3 * width))?)
    }

    /// `dy [W, hidden] → dx [T, hidden]`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn backward(
        &self,
        dy: &Tensor,
        saved: &Saved,
        rows: &Rows,
        context: &Context,
        gradients: &mut [f32],
    ) -> Result<Gradient> {
        let d_attention =
            projection::backward(&[(&self.output, dy, &saved.output)], context, None, gradients)?.finish()?;
        let Saved { q, k, v, attention, .. } = saved;
        let d_attention = rows.back(&d_attention, q.dims2()?.0)?;
        let flop = self.heads.flop(rows.trees);
        let (mut dq, mut dk, dv) = timed("tree attention backward", 5 * flop, || {
            tree_attention::backward(
                &d_attention,
                q,
                k,
                v,
                attention,
                &self.heads,
                self.precision(),
                rows.trees,
            )
        })?;
        if let Some(index) = self.rotation {
            let back = |dy: &Tensor| rope::backward(dy, &rows.rotations[index], self.heads.head_dim);
            (dq, dk) = timed("rope", 0, || Ok::<_, crate::error::Error>((back(&dq)?, back(&dk)?)))?;
        }
        if let (Some((q_norm, k_norm)), Some((q_raw, k_raw))) = (&self.qk_norm, &saved.raw) {
            (dq, dk) = (q_norm.gradient(&dq, q_raw)?, k_norm.gradient(&dk, k_raw)?);
        }
        match &self.qkv {
            Qkv::Separate([of_q, of_k, of_v]) => {
                let kept = &saved.projections;
                let all = [(of_q, &dq, &kept[0]), (of_k, &dk, &kept[1]), (of_v, &dv, &kept[2])];
                projection::backward(&all, context, None, gradients)
            }
            Qkv::Fused { projection, per_head } => {
                let dy = self.join([&dq, &dk, &dv], *per_head)?;
                let all = [(projection, &dy, &saved.projections[0])];
                projection::backward(&all, context, None, gradients)
            }
        }
    }
}
