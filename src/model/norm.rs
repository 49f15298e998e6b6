//! A norm's weights.

use candle_core::{Device, Tensor};

use super::spec::{NormKind, NormSpec};
use super::tensors::Tensors;
use crate::error::Result;
use crate::ops::gradient::Gradient;
use crate::ops::{layer_norm, profile, rms_norm};

/// A frozen norm.
#[derive(Debug)]
pub struct Norm {
    gain: Tensor,
    bias: Option<Tensor>,
    eps: f64,
    size: usize,
}

impl Norm {
    /// Reads its weights.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(spec: &NormSpec, tensors: &Tensors, device: &Device) -> Result<Self> {
        let read = |suffix: &str| tensors.vector(&format!("{}.{suffix}", spec.module), spec.size);
        let mut gain = read("weight")?;
        if spec.kind == NormKind::RmsPlusOne {
            gain.iter_mut().for_each(|g| *g += 1.0);
        }
        let bias = match spec.kind {
            NormKind::Rms | NormKind::RmsPlusOne => None,
            NormKind::Layer => Some(Tensor::from_vec(read("bias")?, spec.size, device)?),
            NormKind::LayerWithoutBias => Some(Tensor::from_vec(vec![0.0f32; spec.size], spec.size, device)?),
        };
        Ok(Self { gain: Tensor::from_vec(gain, spec.size, device)?, bias, eps: spec.eps, size: spec.size })
    }

    /// Normalises runs of `size` features: `x [T, n·size] → [T, n·size]`.
    ///
    /// # Errors
    /// If the width is no multiple of the size.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let runs = x.reshape((rows * width / self.size, self.size))?;
        let y = profile::timed("norm forward", 0, || match &self.bias {
            None => rms_norm::forward(&runs, &self.gain, self.eps),
            Some(bias) => layer_norm::forward(&runs, &self.gain, bias, self.eps),
        })?;
        Ok(y.reshape((rows, width))?)
    }

    /// Adds the gradient of `x` to `dx`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn backward(&self, dx: &mut Gradient, dy: &Tensor, x: &Tensor) -> Result<()> {
        let (rows, width) = x.dims2()?;
        let runs = (rows * width / self.size, self.size);
        let (dy, x) = (dy.reshape(runs)?, x.reshape(runs)?);
        let work = |dx: &mut Gradient| match &self.bias {
            None => rms_norm::backward(dx, &dy, &x, &self.gain, self.eps),
            Some(bias) => layer_norm::backward(dx, &dy, &x, &self.gain, bias, self.eps),
        };
        profile::timed("norm backward", 0, || dx.with_rows(runs, work))
    }

    /// The gradient of `x` alone.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn gradient(&self, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let mut dx = Gradient::zeros(rows, width, x.device())?;
        self.backward(&mut dx, dy, x)?;
        dx.finish()
    }
}
