//! A linear module of a block: the frozen map and every low-rank path over it. LoRA lives here and nowhere else.

use candle_core::Tensor;

use super::lora::Lora;
use super::pass::{Context, Frozen};
use super::spec::LinearSpec;
use super::tensors::Tensors;
use crate::error::Result;
use crate::ops::frozen_linear::Linear;
use crate::ops::gradient::Gradient;
use crate::ops::lora_linear::{self, Kept, LowRank};
use crate::ops::{host, profile};

/// A frozen linear map that may be adapted.
#[derive(Debug)]
pub struct Projection {
    /// Module path as adapters name it.
    pub module: String,
    /// The frozen map.
    pub linear: Linear,
    /// Index of the module among the decoder's, for the names of random streams.
    pub index: u64,
}

/// What a projection's backward pass needs.
#[derive(Debug)]
pub struct Saved {
    x: Tensor,
    /// `z` of each path, frozen ones first.
    z: Vec<Tensor>,
    /// Masked input and factors under dropout.
    dropped: Option<(Tensor, Tensor)>,
}

impl Projection {
    /// Reads the frozen map; `next` counts the decoder's projections.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(spec: &LinearSpec, tensors: &Tensors, next: &mut u64) -> Result<Self> {
        let index = *next;
        *next += 1;
        Ok(Self { module: spec.module.clone(), linear: tensors.linear(spec)?, index })
    }

    /// `x [T, in] → [T, out]`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<(Tensor, Saved)> {
        let paths = self.paths(context);
        let dropped = match (context.dropout, context.trained.and_then(|lora| lora.find(&self.module))) {
            (Some(dropout), Some(_)) => Some(dropout.mask(x, self.index)?),
            _ => None,
        };
        let inputs: Vec<(LowRank, Option<&Tensor>)> = paths
            .iter()
            .map(|(path, trained)| {
                (*path, dropped.as_ref().filter(|_| trained.is_some()).map(|(masked, _)| masked))
            })
            .collect();
        if inputs.is_empty() {
            return Ok((self.linear.forward(x)?, Saved { x: x.clone(), z: Vec::new(), dropped: None }));
        }
        let (y, z) = lora_linear::forward(&self.linear, x, &inputs)?;
        Ok((y, Saved { x: x.clone(), z, dropped }))
    }

    /// `dy [T, out] → dx [T, in]`, onto what other readers of `x` gave; gradients of the trained path go to
    /// `gradients`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn backward(
        &self,
        dy: &Tensor,
        saved: &Saved,
        context: &Context,
        onto: Option<Gradient>,
        gradients: &mut [f32],
    ) -> Result<Gradient> {
        let mut dx = self.linear.backward(dy, onto)?;
        for ((path, trained), z) in self.paths(context).iter().zip(&saved.z) {
            let dropped = saved.dropped.as_ref().filter(|_| trained.is_some());
            let kept =
                Kept { x: dropped.map_or(&saved.x, |(masked, _)| masked), z, mask: dropped.map(|(_, m)| m) };
            let products = if trained.is_some() { 4 } else { 2 };
            let flop = products * z.elem_count() * (self.linear.inputs() + self.linear.outputs());
            profile::timed("low-rank backward", flop, || -> Result<()> {
                let found = lora_linear::backward(&mut dx, dy, path, kept, trained.is_some())?;
                if let (Some(found), Some((lora, slot))) = (found, trained) {
                    lora.add_gradients(*slot, &found, gradients)?;
                }
                Ok(())
            })?;
        }
        Ok(dx)
    }

    /// The paths of a pass, with the set and slot of the trained one.
    fn paths<'a>(&self, context: &Context<'a>) -> Vec<(LowRank<'a>, Option<(&'a Lora, usize)>)> {
        let mut paths = Vec::new();
        for Frozen { lora, reference_only } in context.frozen {
            if *reference_only && context.trained.is_some() {
                continue;
            }
            paths.extend(lora.find(&self.module).map(|slot| (lora.path(slot), None)));
        }
        let trained = context.trained.and_then(|lora| lora.find(&self.module).map(|slot| (lora, slot)));
        paths.extend(trained.map(|(lora, slot)| (lora.path(slot), Some((lora, slot)))));
        paths
    }
}

/// Elementwise product with a sum: `x + scale·y`, the residual connection.
///
/// # Errors
/// If the shapes do not fit.
pub fn residual(x: &Tensor, y: &Tensor, scale: f32) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return Ok((x + (y * f64::from(scale))?)?);
    }
    let (rows, width) = x.dims2()?;
    profile::timed("residual", 0, || {
        let mut out = host::read(x)?.to_vec();
        let y = host::read(y)?;
        host::update_rows(&mut out, width, |row, out| {
            crate::ops::simd::add_scaled(out, &y[row * width..(row + 1) * width], scale);
        });
        host::tensor(out, (rows, width))
    })
}
