//! A linear module of a block: the frozen map and its adapters. Adapters act on linear modules only here.

use std::borrow::Cow;

use super::pass::{Context, Observer};
use super::spec::LinearSpec;
use super::tensors::Tensors;
use crate::error::Result;
use crate::ops::Tensor;
use crate::ops::frozen_linear::Linear;
use crate::ops::gradient::Gradient;
use crate::ops::lora_linear::{Backward, Forward, Input, input_gradient};
use crate::ops::{host, profile};
use crate::trainable::Kept;

/// A frozen linear map that may have adapters.
#[derive(Debug)]
pub struct Projection {
    /// Module path, as adapters name it.
    pub module: String,
    /// The frozen map.
    pub linear: Linear,
}

/// What a projection's backward pass needs.
#[derive(Debug)]
pub struct Saved {
    x: Option<Tensor>,
    /// What each adapter saved, in the order of application.
    kept: Vec<Kept>,
}

impl Saved {
    /// Drops the input. The caller must be able to recompute it from what others keep.
    pub fn forget_input(&mut self) {
        self.x = None;
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> Vec<&Tensor> {
        self.x.iter().collect()
    }

    /// Returns a copy with the input, which `make` recomputes if it was dropped.
    ///
    /// # Errors
    /// Returns the errors of `make`.
    pub fn restored(&self, make: impl FnOnce() -> Result<Tensor>) -> Result<Self> {
        let x = self.x.clone().map_or_else(make, Ok)?;
        Ok(Self { x: Some(x), kept: self.kept.clone() })
    }
}

impl Projection {
    /// Whether a pass trains this map.
    pub fn is_trained(&self, context: &Context) -> bool {
        context.applied(&self.module).iter().any(|applied| applied.trained)
    }

    /// Reads the frozen map.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(spec: &LinearSpec, tensors: &Tensors) -> Result<Self> {
        Ok(Self { module: spec.module.clone(), linear: tensors.projection(spec)? })
    }

    /// Computes `x [T, in] → [T, out]`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(&self, input: &Input, context: &Context) -> Result<(Tensor, Saved)> {
        if let Some(Observer(see)) = context.observer {
            see(&self.module, input.tensor())?;
        }
        let mut product = Forward::new(&self.linear, input);
        let applied = context.applied(&self.module);
        let kept: Result<_> =
            applied.iter().map(|applied| applied.forward(&mut product, context.dropout)).collect();
        let mut kept: Vec<Kept> = kept?;
        let mut y = product.finish()?;
        for (applied, kept) in applied.iter().zip(&mut kept).filter(|(applied, _)| applied.acts_on_output()) {
            (y, *kept) = applied.output(y, context.dropout)?;
        }
        Ok((y, Saved { x: Some(input.tensor().clone()), kept }))
    }
}

/// The backward pass of projections that share one input: `dy [T, out]` of each → `dx [T, in]`, added to the gradient
/// from other readers of the input. Gradients of trained values are added to `gradients`.
///
/// # Errors
/// If the shapes do not fit.
pub fn backward<'a>(
    projections: &[(&'a Projection, &'a Tensor, &'a Saved)],
    context: &Context<'a>,
    onto: Option<Gradient>,
    gradients: &mut [f32],
) -> Result<Gradient> {
    let before: Vec<Cow<Tensor>> = projections
        .iter()
        .map(|(projection, dy, saved)| before_output(projection, dy, saved, context, gradients))
        .collect::<Result<_>>()?;
    let mut maps = Vec::with_capacity(projections.len());
    for ((projection, _, saved), dy) in projections.iter().zip(&before) {
        let mut product = Backward::new(&projection.linear, dy)?;
        for (applied, kept) in context.applied(&projection.module).iter().zip(&saved.kept) {
            applied.backward(&mut product, kept, saved.x.as_ref(), gradients)?;
        }
        maps.push(product);
    }
    input_gradient(maps, onto)
}

/// The gradient of the product, from that of the output, which some adapters change.
fn before_output<'a>(
    projection: &Projection,
    dy: &'a Tensor,
    saved: &Saved,
    context: &Context,
    gradients: &mut [f32],
) -> Result<Cow<'a, Tensor>> {
    let mut dy = Cow::Borrowed(dy);
    for (applied, kept) in context.applied(&projection.module).iter().zip(&saved.kept).rev() {
        if applied.acts_on_output() {
            dy = Cow::Owned(applied.output_gradient(&dy, kept, gradients)?);
        }
    }
    Ok(dy)
}

/// Computes `x + scale·y`, the residual connection.
///
/// # Errors
/// If the shapes do not fit.
pub fn residual(x: &Tensor, y: &Tensor, scale: f32) -> Result<Tensor> {
    let (rows, width) = x.shape();
    profile::timed("residual", 0, || {
        let (x, y) = (x.numbers(), y.numbers());
        let out = host::build_rows(rows, width, |row, out| {
            let range = row * width..(row + 1) * width;
            crate::ops::simd::scaled_sum(&x[range.clone()], &y[range], scale, out);
        });
        Tensor::new(out, (rows, width))
    })
}
