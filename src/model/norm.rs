//! Norms with their weights.

use super::spec::{NormKind, NormSpec};
use super::tensors::Tensors;
use crate::error::Result;
use crate::ops::Tensor;
use crate::ops::gradient::Gradient;
use crate::ops::{layer_norm, profile, rms_norm};

/// A frozen norm.
#[derive(Debug)]
pub struct Norm {
    gain: Vec<f32>,
    bias: Option<Vec<f32>>,
    /// Gains of runs that have their own, `[runs·size]`; in that case `gain` is all ones.
    of_runs: Option<Vec<f32>>,
    eps: f64,
    size: usize,
}

/// The parameters of a norm.
#[derive(Clone, Debug, PartialEq)]
pub struct NormParts {
    /// One gain for each feature of a run, or for each feature of all runs.
    pub gain: Vec<f32>,
    /// The bias, which only a layer norm has; as many values as gains.
    pub bias: Option<Vec<f32>>,
    /// Value added to the mean square or variance.
    pub eps: f64,
    /// Number of features normalised together.
    pub size: usize,
}

impl Norm {
    /// The parameters of the norm.
    pub fn parts(&self) -> NormParts {
        let gain = self.of_runs.as_ref().unwrap_or(&self.gain).clone();
        let mut bias = self.bias.clone();
        if let (Some(bias), Some(_)) = (&mut bias, &self.of_runs) {
            // The gains of runs are applied after the bias.
            *bias = gain.iter().zip(bias.iter().cycle()).map(|(gain, bias)| gain * bias).collect();
        }
        NormParts { gain, bias, eps: self.eps, size: self.size }
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(spec: &NormSpec, tensors: &Tensors) -> Result<Self> {
        let shape: Vec<usize> = spec.runs.into_iter().chain([spec.size]).collect();
        let read = |suffix: &str| tensors.numbers(&format!("{}.{suffix}", spec.module), &shape);
        let (has_gain, has_bias) = spec.kind.stored();
        let mut gain = if has_gain { read("weight")? } else { vec![1.0; spec.size] };
        if matches!(spec.kind, NormKind::RmsPlusOne | NormKind::LayerPlusOne) {
            gain.iter_mut().for_each(|g| *g += 1.0);
        }
        let bias = match spec.kind {
            NormKind::Rms | NormKind::RmsPlusOne => None,
            _ if has_bias => Some(read("bias")?),
            _ => Some(vec![0.0f32; spec.size]),
        };
        let (gain, of_runs) = match spec.runs {
            None | Some(1) => (gain, None),
            Some(_) => (vec![1.0; spec.size], Some(gain)),
        };
        Ok(Self { gain, bias, of_runs, eps: spec.eps, size: spec.size })
    }

    /// Normalises runs of `size` features: `x [T, n·size] → [T, n·size]`.
    ///
    /// # Errors
    /// If the width is not a multiple of the size.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, width) = x.shape();
        let runs = x.reshaped((rows * width / self.size, self.size))?;
        let y = profile::timed("norm forward", 0, || match &self.bias {
            None => rms_norm::forward(&runs, &self.gain, self.eps),
            Some(bias) => layer_norm::forward(&runs, &self.gain, bias, self.eps),
        })?;
        self.scaled(&y.reshaped((rows, width))?)
    }

    /// Multiplies `x [T, runs·size]` by the gains of the runs.
    fn scaled(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match &self.of_runs {
            None => x.clone(),
            Some(gain) => x.scaled_columns(gain)?,
        })
    }

    /// Adds the gradient of `x` to `dx`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn backward(&self, dx: &mut Gradient, dy: &Tensor, x: &Tensor) -> Result<()> {
        let (rows, width) = x.shape();
        let runs = (rows * width / self.size, self.size);
        let (dy, x) = (self.scaled(dy)?.reshaped(runs)?, x.reshaped(runs)?);
        let work = |dx: &mut Gradient| match &self.bias {
            None => rms_norm::backward(dx, &dy, &x, &self.gain, self.eps),
            Some(_) => layer_norm::backward(dx, &dy, &x, &self.gain, self.eps),
        };
        profile::timed("norm backward", 0, || dx.with_columns(self.size, work))
    }

    /// Returns only the gradient of `x`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn gradient(&self, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        let (rows, width) = x.shape();
        let mut dx = Gradient::zeros(rows, width);
        self.backward(&mut dx, dy, x)?;
        dx.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::families::{self, ConfigJson};
    use super::*;
    use crate::weights::SafetensorsSource;

    #[test]
    fn the_gains_of_a_single_run_are_a_matrix_too() {
        let place = tempfile::tempdir().unwrap();
        let header = r#"{"n.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;
        let numbers = [1.5f32, -2.0].map(f32::to_le_bytes).concat();
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &numbers].concat();
        std::fs::write(place.path().join("model.safetensors"), file).unwrap();
        let source = SafetensorsSource::open(place.path()).unwrap();
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/cohere");
        let spec = families::spec(&ConfigJson::open(&directory).unwrap()).unwrap();
        let tensors = Tensors::new(&source, &spec, None);
        let norm = |runs| {
            let kind = NormKind::LayerWithoutBias;
            Norm::load(&NormSpec { module: "n".into(), size: 2, runs, kind, eps: 1e-5 }, &tensors)
        };
        assert_eq!(norm(Some(1)).unwrap().parts().gain, [1.5, -2.0]);
        assert!(norm(None).is_err() && norm(Some(2)).is_err());
    }
}
