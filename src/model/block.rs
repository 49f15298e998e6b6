//! A block: attention and MLP in the residual stream. The backward pass mirrors the forward pass in reverse order.

use super::attention::{self, Attention, Qkv, Rows};
use super::layer_cache::LayerCache;
use super::mlp::{self, Maps, Mlp};
use super::norm::Norm;
use super::pass::Context;
use super::projection::{Projection, residual};
use super::spec::{LayerSpec, NormSpec};
use super::tensors::Tensors;
use crate::error::Result;
use crate::ops::Tensor;
use crate::ops::gradient::Gradient;

/// A block with its weights.
#[derive(Debug)]
pub struct Block {
    pub(super) attention_norm: Option<Norm>,
    pub(super) attention: Attention,
    pub(super) post_attention_norm: Option<Norm>,
    pub(super) mlp_norm: Option<Norm>,
    pub(super) mlp: Mlp,
    pub(super) post_mlp_norm: Option<Norm>,
    pub(super) parallel: bool,
    pub(super) residual_scale: f32,
}

/// What the backward pass needs.
#[derive(Debug)]
pub struct Saved {
    /// The block's input.
    x: Tensor,
    attention: attention::Saved,
    /// The output of attention, if a norm follows it.
    attention_output: Option<Tensor>,
    /// The residual stream after attention, for the wanted rows.
    middle: Tensor,
    mlp: mlp::Saved,
    /// The output of the MLP, if a norm follows it.
    mlp_output: Option<Tensor>,
}

impl Saved {
    /// The number of values per row that a block of this architecture keeps, not counting what adapters keep.
    pub fn features(spec: &LayerSpec, hidden: usize) -> usize {
        let norms = [&spec.post_attention_norm, &spec.post_mlp_norm].into_iter().flatten().count();
        let parts =
            attention::Saved::features(&spec.attention, hidden) + mlp::Saved::features(&spec.mlp, hidden);
        // Without a norm before them, attention reads `x`, and the MLP reads `middle` or the input of attention. Such a
        // tensor is kept once.
        let shared = [&spec.attention_norm, &spec.mlp_norm].into_iter().filter(|norm| norm.is_none()).count();
        // `x` and `middle`, and the outputs that are followed by norms.
        (2 + norms - shared) * hidden + parts
    }

    /// All tensors it holds; a tensor that is held by several parts appears more than once.
    #[cfg(test)]
    pub(super) fn held(&self) -> Vec<&Tensor> {
        let mut all = vec![&self.x, &self.middle];
        all.extend(self.attention_output.iter().chain(&self.mlp_output));
        all.extend(self.attention.held());
        all.extend(self.mlp.held());
        all
    }
}

impl Block {
    /// Reads the weights.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(spec: &LayerSpec, tensors: &Tensors) -> Result<Self> {
        let norm = |spec: &Option<NormSpec>| spec.as_ref().map(|s| Norm::load(s, tensors)).transpose();
        Ok(Self {
            attention_norm: norm(&spec.attention_norm)?,
            attention: Attention::load(&spec.attention, tensors)?,
            post_attention_norm: norm(&spec.post_attention_norm)?,
            mlp_norm: norm(&spec.mlp_norm)?,
            mlp: Mlp::load(&spec.mlp, tensors)?,
            post_mlp_norm: norm(&spec.post_mlp_norm)?,
            parallel: spec.parallel,
            residual_scale: spec.residual_scale,
        })
    }

    /// The projections of the block, in the order of computation.
    pub fn projections(&self) -> Vec<&Projection> {
        let mut all = match &self.attention.qkv {
            Qkv::Separate(each) => each.iter().collect(),
            Qkv::Fused { projection, .. } => vec![projection],
        };
        all.push(&self.attention.output);
        match &self.mlp.input {
            Maps::Gated { gate, up } => all.extend([gate, up]),
            Maps::Fused(one) | Maps::Plain(one) => all.push(one),
        }
        all.push(&self.mlp.down);
        all
    }

    /// Computes `x [T, hidden] → [W, hidden]` for the wanted rows. After attention, no row depends on another.
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
        let a = normed(&self.attention_norm, x)?;
        let (attention_output, attention) = self.attention.forward(&a, rows, context, caches)?;
        let (branch, attention_output) = post(&self.post_attention_norm, attention_output)?;
        let middle = residual(&rows.of(x)?, &branch, self.residual_scale)?;
        let b = match (self.parallel, &self.mlp_norm) {
            (false, norm) => normed(norm, &middle)?,
            (true, None) => rows.of(&a)?,
            (true, norm) => normed(norm, &rows.of(x)?)?,
        };
        let (mlp_output, mlp) = self.mlp.forward(&b, context)?;
        let (branch, mlp_output) = post(&self.post_mlp_norm, mlp_output)?;
        let y = residual(&middle, &branch, self.residual_scale)?;
        Ok((y, Saved { x: x.clone(), attention, attention_output, middle, mlp, mlp_output }))
    }

    /// Computes `dy [W, hidden] → dx [T, hidden]`. The gradients of trained matrices are added to `gradients`.
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
    ) -> Result<Tensor> {
        let d_mlp = self.branch_gradient(&self.post_mlp_norm, dy, saved.mlp_output.as_ref())?;
        let d_b = self.mlp.backward(&d_mlp, &saved.mlp, context, gradients)?.finish()?;
        let d_middle = if self.parallel {
            dy.clone()
        } else {
            let mut d_middle = Gradient::of(dy);
            through(&self.mlp_norm, &mut d_middle, &d_b, &saved.middle)?;
            d_middle.finish()?
        };
        let d_attention =
            self.branch_gradient(&self.post_attention_norm, &d_middle, saved.attention_output.as_ref())?;
        let mut d_a = self.attention.backward(&d_attention, &saved.attention, rows, context, gradients)?;
        let total = saved.x.shape().0;
        let mut dx = Gradient::of(&rows.back(&d_middle, total)?);
        if self.parallel {
            let d_b = rows.back(&d_b, total)?;
            match &self.mlp_norm {
                None => d_a.add(&d_b)?,
                Some(norm) => norm.backward(&mut dx, &d_b, &saved.x)?,
            }
        }
        through(&self.attention_norm, &mut dx, &d_a.finish()?, &saved.x)?;
        dx.finish()
    }

    /// Computes the gradient of a branch, before its norm if it has one, from that of the residual stream.
    fn branch_gradient(&self, norm: &Option<Norm>, dy: &Tensor, output: Option<&Tensor>) -> Result<Tensor> {
        let scaled =
            if self.residual_scale == 1.0 { dy.clone() } else { dy.map(|x| x * self.residual_scale) };
        match (norm, output) {
            (Some(norm), Some(output)) => norm.gradient(&scaled, output),
            _ => Ok(scaled),
        }
    }
}

fn normed(norm: &Option<Norm>, x: &Tensor) -> Result<Tensor> {
    norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.forward(x))
}

/// Returns the output of a branch after its norm, and the output before the norm if there is one.
fn post(norm: &Option<Norm>, y: Tensor) -> Result<(Tensor, Option<Tensor>)> {
    match norm {
        None => Ok((y, None)),
        Some(norm) => Ok((norm.forward(&y)?, Some(y))),
    }
}

/// Adds to `dx` the gradient that flows through the norm of `x`, or `dy` itself if there is no norm.
fn through(norm: &Option<Norm>, dx: &mut Gradient, dy: &Tensor, x: &Tensor) -> Result<()> {
    match norm {
        None => dx.add(dy),
        Some(norm) => norm.backward(dx, dy, x),
    }
}
