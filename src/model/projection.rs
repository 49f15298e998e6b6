//! A linear module of a block: the frozen map and every low-rank path over it. LoRA lives here and nowhere else.

use candle_core::Tensor;

use super::lora::Lora;
use super::pass::{Context, Frozen};
use super::spec::LinearSpec;
use super::tensors::Tensors;
use crate::error::Result;
use crate::ops::frozen_linear::Linear;
use crate::ops::gradient::Gradient;
use crate::ops::lora_linear::{self, Branch, Input, Kept, LowRank};
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
    x: Option<Tensor>,
    /// `z` of each path, frozen ones first.
    z: Vec<Tensor>,
    /// Masked input and factors under dropout.
    dropped: Option<(Tensor, Tensor)>,
}

impl Saved {
    /// Drops the input, if it can be made again from what others keep; off the CPU it stays.
    pub fn forget_input(&mut self) {
        self.x.take_if(|x| x.device().is_cpu());
    }

    /// With the input again, if it was dropped.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn restored(&self, make: impl FnOnce() -> Result<Tensor>) -> Result<Self> {
        let x = self.x.clone().map_or_else(make, Ok)?;
        Ok(Self { x: Some(x), z: self.z.clone(), dropped: self.dropped.clone() })
    }
}

impl Projection {
    /// Whether a pass trains this map.
    pub fn is_trained(&self, context: &Context) -> bool {
        context.trained.is_some_and(|lora| lora.find(&self.module).is_some())
    }

    /// Reads the frozen map; `next` counts the decoder's projections.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(spec: &LinearSpec, tensors: &Tensors, next: &mut u64) -> Result<Self> {
        let index = *next;
        *next += 1;
        Ok(Self { module: spec.module.clone(), linear: tensors.projection(spec)?, index })
    }

    /// `x [T, in] → [T, out]`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(&self, input: &Input, context: &Context) -> Result<(Tensor, Saved)> {
        let x = input.tensor();
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
        let (y, z) = lora_linear::forward(&self.linear, input, &inputs)?;
        Ok((y, Saved { x: Some(x.clone()), z, dropped }))
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

/// Projections of one input, backwards: `dy [T, out]` of each → `dx [T, in]`, onto what other readers of the input
/// gave. Gradients of the trained paths are added to `gradients`.
///
/// # Errors
/// If the shapes do not fit.
pub fn backward(
    projections: &[(&Projection, &Tensor, &Saved)],
    context: &Context,
    onto: Option<Gradient>,
    gradients: &mut [f32],
) -> Result<Gradient> {
    let (mut branches, mut slots) = (Vec::with_capacity(projections.len()), Vec::new());
    for (projection, dy, saved) in projections {
        let mut paths = Vec::new();
        for ((path, trained), z) in projection.paths(context).into_iter().zip(&saved.z) {
            let dropped = saved.dropped.as_ref().filter(|_| trained.is_some());
            let x = dropped.map(|(masked, _)| masked).or(saved.x.as_ref());
            paths.push((path, Kept { x, z, mask: dropped.map(|(_, m)| m), trained: trained.is_some() }));
            slots.extend(trained);
        }
        branches.push(Branch { linear: &projection.linear, dy, paths });
    }
    let (dx, found) = lora_linear::backward(&branches, onto)?;
    for ((lora, slot), found) in slots.iter().zip(&found) {
        lora.add_gradients(*slot, found, gradients);
    }
    Ok(dx)
}

/// `x + scale·y`, the residual connection.
///
/// # Errors
/// If the shapes do not fit.
pub fn residual(x: &Tensor, y: &Tensor, scale: f32) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return Ok((x + (y * f64::from(scale))?)?);
    }
    let (rows, width) = x.dims2()?;
    profile::timed("residual", 0, || {
        let (x, y) = (host::read(x)?, host::read(y)?);
        let out = host::build_rows(rows, width, |row, out| {
            let range = row * width..(row + 1) * width;
            crate::ops::simd::scaled_sum(&x[range.clone()], &y[range], scale, out);
        });
        host::tensor(out, (rows, width))
    })
}
