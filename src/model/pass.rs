//! What a forward pass computes with: reference or policy, and dropout.

use candle_core::Tensor;

use super::lora::Lora;
use crate::error::Result;
use crate::ops::host;
use crate::random::Stream;

/// Which policy a forward pass computes. An argument, never a state of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// π_ref: the base and its frozen adapters.
    Reference,
    /// π_θ: the same and the trained adapter.
    Policy,
}

/// An adapter that is not trained.
#[derive(Debug)]
pub struct Frozen {
    /// Its matrices.
    pub lora: Lora,
    /// Whether it belongs to the reference alone: the frozen copy of what the trained adapter started from.
    pub reference_only: bool,
}

/// What the projections of a pass need to know.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Adapters that are not trained.
    pub frozen: &'a [Frozen],
    /// The trained adapter, on a policy pass.
    pub trained: Option<&'a Lora>,
    /// Dropout on the trained adapter's input, while training.
    pub dropout: Option<Dropout>,
}

/// `lora_dropout` at a step: its masks follow from the stream, the module and the row alone, so that recomputation and
/// a resumed run see the same ones.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Probability that a feature is dropped.
    pub probability: f32,
    /// The stream of this step (and micro-batch).
    pub stream: Stream,
}

impl Dropout {
    /// The input with features dropped and the rest scaled by 1/(1 − p), and those factors; both `[T, in]`.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn mask(&self, x: &Tensor, module: u64) -> Result<(Tensor, Tensor)> {
        let (rows, width) = x.dims2()?;
        let keep = 1.0 / (1.0 - self.probability);
        let stream = self.stream.child(module);
        let factors = host::build_rows(rows, width, |row, out| {
            let stream = stream.child(row as u64);
            for (i, factor) in out.iter_mut().enumerate() {
                *factor = if stream.uniform(i as u64) < self.probability { 0.0 } else { keep };
            }
        });
        let factors = host::tensor(factors, (rows, width))?.to_device(x.device())?;
        Ok(((x * &factors)?, factors))
    }
}
