//! Attention of a block: projections, query and key norms, rotation, tree attention and output projection.

use super::layer_cache::{self, LayerCache};
use super::norm::Norm;
use super::pass::Context;
use super::prefixed::Prefixed;
use super::projection::{self, Projection, Saved as Kept};
use super::spec::{AttentionSpec, QkvSpec, parent};
use super::tensors::Tensors;
use crate::error::Result;
use crate::ops::Tensor;
use crate::ops::clip;
use crate::ops::gemm::Precision;
use crate::ops::gradient::Gradient;
use crate::ops::lora_linear::Input;
use crate::ops::profile::timed;
use crate::ops::rope::{self, Rotation};
use crate::ops::rows;
use crate::ops::tree_attention::{self, Attended, Heads, Seen, TreeSpans};

/// Attention with its weights.
#[derive(Debug)]
pub struct Attention {
    pub(super) qkv: Qkv,
    pub(super) clip: Option<f32>,
    pub(super) qk_norm: Option<(Norm, Norm)>,
    pub(super) norm_after_rotation: bool,
    pub(super) heads: Heads,
    /// Indices of the query rotation and of the key rotation.
    pub(super) rotation: Option<(usize, usize)>,
    pub(super) output: Projection,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one per layer, and most families have the large one")]
pub(super) enum Qkv {
    Separate([Projection; 3]),
    /// One projection that gives `[q; k; v]`, or, with `per_head`, the same for each key head in turn.
    Fused {
        projection: Projection,
        per_head: bool,
    },
}

/// The rows of a pass: which rows see which, their positions, and which outputs are wanted.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Which rows see which.
    pub trees: &'a [TreeSpans],
    /// One rotation for each rotation of the spec.
    pub rotations: &'a [Rotation],
    /// Rows of keys that adapters put before those of each tree; the trees' spans count them.
    pub prefix: usize,
    /// The `W` rows whose output is wanted, ascending and distinct; `None` means all `T`. The other rows only provide
    /// keys and values.
    pub wanted: Option<&'a [u32]>,
}

impl<'a> Rows<'a> {
    /// Returns the same rows with only the outputs of `wanted` computed.
    pub fn only(self, wanted: &'a [u32]) -> Self {
        Self { wanted: Some(wanted), ..self }
    }

    /// Selects the wanted rows of `x`: `[T, n] → [W, n]`.
    ///
    /// # Errors
    /// If a row is out of range.
    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        self.wanted.map_or_else(|| Ok(x.clone()), |wanted| rows::gather(x, wanted))
    }

    /// Scatters the gradient of the wanted rows, with zeros elsewhere: `[W, n] → [T, n]`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn back(&self, dy: &Tensor, total: usize) -> Result<Tensor> {
        self.wanted.map_or_else(|| Ok(dy.clone()), |wanted| rows::scatter_add(dy, wanted, total))
    }
}

/// The queries and keys that the norms take as input, if there are norms.
type Raw = Option<(Tensor, Tensor)>;

/// What attention's backward pass needs.
#[derive(Debug)]
pub struct Saved {
    projections: Vec<Kept>,
    /// 1 where a query, key or value was not clipped, else 0.
    unclipped: Option<[Tensor; 3]>,
    /// Queries and keys before their norms.
    raw: Raw,
    /// Queries, keys and values as attention takes them.
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// The keys and values before those of each tree, which `k` and `v` begin with.
    prefix: Option<Prefixed>,
    attention: tree_attention::Saved,
    output: Kept,
}

impl Saved {
    /// The number of values per row that attention of this architecture keeps, not counting what adapters keep.
    pub fn features(spec: &AttentionSpec, hidden: usize) -> usize {
        let AttentionSpec { heads, qkv, qk_norm, rotation, clip, .. } = spec;
        let (q, kv) = (heads.n_head * heads.head_dim, heads.n_kv_head * heads.head_dim);
        // Queries and keys before their norms are separate tensors only if a rotation or a split creates new ones.
        let raw = qk_norm.is_some() && (rotation.is_some() || !matches!(qkv, QkvSpec::Separate(_)));
        let raw = if raw { q + kv } else { 0 };
        let unclipped = if clip.is_some() { q + 2 * kv } else { 0 };
        // The input; queries, keys and values; the output, which the output projection reads, and the log-sum-exps.
        hidden + (q + 2 * kv) + (q + heads.n_head) + raw + unclipped
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> Vec<&Tensor> {
        let mut all = vec![&self.q, &self.k, &self.v, &self.attention.output];
        all.extend(self.projections.iter().chain([&self.output]).flat_map(Kept::held));
        all.extend(self.unclipped.iter().flatten());
        all.extend(self.raw.iter().flat_map(|(q, k)| [q, k]));
        all
    }
}

impl Attention {
    /// Reads the weights.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(spec: &AttentionSpec, tensors: &Tensors) -> Result<Self> {
        let qkv = match &spec.qkv {
            QkvSpec::Separate([q, k, v]) => Qkv::Separate([
                Projection::load(q, tensors)?,
                Projection::load(k, tensors)?,
                Projection::load(v, tensors)?,
            ]),
            QkvSpec::Stacked(one) => {
                Qkv::Fused { projection: Projection::load(one, tensors)?, per_head: false }
            }
            QkvSpec::PerHead(one) => {
                Qkv::Fused { projection: Projection::load(one, tensors)?, per_head: true }
            }
        };
        let norms = spec.qk_norm.as_ref();
        let qk_norm = norms
            .map(|(q, k)| Ok::<_, crate::error::Error>((Norm::load(q, tensors)?, Norm::load(k, tensors)?)))
            .transpose()?;
        let output = Projection::load(&spec.output, tensors)?;
        let rotation = spec.rotation.map(|keys| (spec.query_rotation.unwrap_or(keys), keys));
        let norm_after_rotation = spec.norm_after_rotation;
        Ok(Self { qkv, clip: spec.clip, qk_norm, norm_after_rotation, heads: spec.heads, rotation, output })
    }

    /// Computes `x [T, hidden] → [W, hidden]` for the wanted rows. With a cache for each tree, rows also see the keys and
    /// values of the tree's earlier rows, and the new keys and values are appended to it.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(
        &self,
        x: &Tensor,
        rows: &Rows,
        context: &Context,
        caches: Option<&mut [&mut LayerCache]>,
    ) -> Result<(Tensor, Saved)> {
        let (q, k, v, projections) = self.project(&Input::new(x.clone()), context)?;
        let (q, k, mut v, unclipped) = self.clipped(q, k, v)?;
        let (q, mut k, raw) = self.shape(q, k, rows)?;
        let module = parent(&self.output.module);
        let mut prefix = Prefixed::of(context, module, rows.prefix, self.widths().1)?;
        let seen: Option<Vec<Seen>> = match caches {
            None => {
                if let Some(prefix) = &prefix {
                    (k, v) = prefix.before(&k, &v, rows.trees)?;
                }
                None
            }
            Some(caches) => {
                if let Some(prefix) = prefix.take() {
                    caches.iter_mut().for_each(|cache| cache.begin(prefix.rows()));
                }
                layer_cache::append(caches, &k, &v, rows.trees)?;
                let caches: &[&mut LayerCache] = caches;
                Some(caches.iter().map(|cache| cache.seen()).collect())
            }
        };
        let flop = self.heads.flop(rows.trees);
        let attended = self.attended([&q, &k, &v], rows);
        let attention = timed("tree attention forward", 2 * flop, || match &seen {
            None => tree_attention::forward(&attended),
            Some(seen) => tree_attention::forward_after(&attended, seen),
        })?;
        let (y, output) = self.output.forward(&Input::new(rows.of(&attention.output)?), context)?;
        Ok((y, Saved { projections, unclipped, raw, q, k, v, prefix, attention, output }))
    }

    fn attended<'a>(&'a self, [q, k, v]: [&'a Tensor; 3], rows: &Rows<'a>) -> Attended<'a> {
        Attended { q, k, v, heads: &self.heads, precision: self.precision(), trees: rows.trees }
    }

    /// The rounding of attention's own products. It is that of the output projection, or bf16 if the output
    /// projection's weights are quantised.
    fn precision(&self) -> Precision {
        match self.output.linear.precision() {
            Precision::F32 => Precision::F32,
            Precision::Bf16 | Precision::Fixed | Precision::Split => Precision::Bf16,
        }
    }

    /// Clips queries, keys and values, and returns where they were not clipped.
    fn clipped(
        &self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
    ) -> Result<(Tensor, Tensor, Tensor, Option<[Tensor; 3]>)> {
        let Some(size) = self.clip else { return Ok((q, k, v, None)) };
        let (q, of_q) = clip::forward(&q, size);
        let (k, of_k) = clip::forward(&k, size);
        let (v, of_v) = clip::forward(&v, size);
        Ok((q, k, v, Some([of_q, of_k, of_v])))
    }

    /// Applies norms and rotation to queries and keys, and returns the input of the norms as well.
    fn shape(&self, q: Tensor, k: Tensor, rows: &Rows) -> Result<(Tensor, Tensor, Raw)> {
        let turned = |q: Tensor, k: Tensor| match self.rotation {
            None => Ok::<_, crate::error::Error>((q, k)),
            Some((of_q, of_k)) => Ok((self.turn(&q, rows, of_q)?, self.turn(&k, rows, of_k)?)),
        };
        let Some((q_norm, k_norm)) = &self.qk_norm else {
            let (q, k) = turned(q, k)?;
            return Ok((q, k, None));
        };
        let (q, k) = if self.norm_after_rotation { turned(q, k)? } else { (q, k) };
        let normed = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        let (q_out, k_out) = if self.norm_after_rotation { normed } else { turned(normed.0, normed.1)? };
        Ok((q_out, k_out, Some((q, k))))
    }

    /// The backward pass of [`Attention::shape`]: returns the gradients of the projected queries and keys.
    fn unshape(&self, dq: Tensor, dk: Tensor, saved: &Saved, rows: &Rows) -> Result<(Tensor, Tensor)> {
        let turned = |dq: Tensor, dk: Tensor| {
            let Some((of_q, of_k)) = self.rotation else { return Ok((dq, dk)) };
            let back = |dy: &Tensor, i: usize| rope::backward(dy, &rows.rotations[i], self.heads.head_dim);
            timed("rope", 0, || Ok::<_, crate::error::Error>((back(&dq, of_q)?, back(&dk, of_k)?)))
        };
        let (Some((q_norm, k_norm)), Some((q_raw, k_raw))) = (&self.qk_norm, &saved.raw) else {
            return turned(dq, dk);
        };
        let (dq, dk) = if self.norm_after_rotation { (dq, dk) } else { turned(dq, dk)? };
        let (dq, dk) = (q_norm.gradient(&dq, q_raw)?, k_norm.gradient(&dk, k_raw)?);
        if self.norm_after_rotation { turned(dq, dk) } else { Ok((dq, dk)) }
    }

    fn turn(&self, x: &Tensor, rows: &Rows, index: usize) -> Result<Tensor> {
        timed("rope", 0, || rope::forward(x, &rows.rotations[index], self.heads.head_dim))
    }

    /// Projects the input to queries, keys and values, `[T, n·head_dim]` each.
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

    /// The widths of queries and of keys (or values).
    fn widths(&self) -> (usize, usize) {
        (self.heads.n_head * self.heads.head_dim, self.heads.n_kv_head * self.heads.head_dim)
    }

    /// Splits the fused projection's output into queries, keys and values.
    fn split(&self, y: &Tensor, per_head: bool) -> Result<(Tensor, Tensor, Tensor)> {
        let (q, kv) = self.widths();
        if !per_head {
            return Ok((y.columns(0..q)?, y.columns(q..q + kv)?, y.columns(q + kv..q + 2 * kv)?));
        }
        let (by_head, widths) = (y.reshaped(self.by_head(y.shape().0).0)?, self.by_head(0).1);
        let (rows, mut start) = (y.shape().0, 0);
        let mut part = |width: usize, all: usize| {
            start += width;
            by_head.columns(start - width..start)?.reshaped((rows, all))
        };
        Ok((part(widths[0], q)?, part(widths[1], kv)?, part(widths[2], kv)?))
    }

    /// Inverts [`Self::split`].
    fn join(&self, parts: [&Tensor; 3], per_head: bool) -> Result<Tensor> {
        if !per_head {
            return Tensor::beside(&parts);
        }
        let rows = parts[0].shape().0;
        let ((runs, _), widths) = self.by_head(rows);
        let [q, k, v] = [0, 1, 2].map(|i| parts[i].reshaped((runs, widths[i])));
        let (q_width, kv_width) = self.widths();
        Tensor::beside(&[&q?, &k?, &v?])?.reshaped((rows, q_width + 2 * kv_width))
    }

    /// The shape of `[T, features]` with one row per key head, and the widths of the queries, the key and the value in
    /// such a row.
    fn by_head(&self, rows: usize) -> ((usize, usize), [usize; 3]) {
        let Heads { n_head, n_kv_head, head_dim, .. } = self.heads;
        let queries = n_head / n_kv_head * head_dim;
        ((rows * n_kv_head, queries + 2 * head_dim), [queries, head_dim, head_dim])
    }

    /// Computes `dy [W, hidden] → dx [T, hidden]`.
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
        let d_attention = rows.back(&d_attention, q.shape().0)?;
        let flop = self.heads.flop(rows.trees);
        let (dq, dk, dv) = timed("tree attention backward", 5 * flop, || {
            tree_attention::backward(&d_attention, &self.attended([q, k, v], rows), attention)
        })?;
        let (dk, mut dv) = match &saved.prefix {
            None => (dk, dv),
            Some(prefix) => {
                prefix.gradients(&dk, &dv, rows.trees, (context.policy.trained.values(), gradients))?
            }
        };
        let (mut dq, mut dk) = self.unshape(dq, dk, saved, rows)?;
        if let Some([of_q, of_k, of_v]) = &saved.unclipped {
            dq = clip::backward(&dq, of_q)?;
            dk = clip::backward(&dk, of_k)?;
            dv = clip::backward(&dv, of_v)?;
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
