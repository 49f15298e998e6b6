//! A step's gradient and what is done with it, where the decoder computes: in a buffer of the host, or on the device.

use super::gradients;
use super::optimizer::Optimizer;
use crate::data::PackedBatch;
use crate::error::Result;
use crate::model::decoder::{Decoder, Tape};

/// The gradient of the trained adapter.
pub enum Descent {
    /// Laid out as the adapter's numbers.
    Host(Vec<f32>),
    /// On the decoder's device.
    Device,
}

impl Descent {
    /// A gradient of zeros.
    ///
    /// # Errors
    /// If the device fails.
    pub fn begin(decoder: &Decoder) -> Result<Self> {
        if decoder.is_on_device() {
            decoder.clear_device_gradient()?;
            return Ok(Self::Device);
        }
        let parameters = decoder.trained.as_ref().map_or(0, |lora| lora.values().len());
        Ok(Self::Host(vec![0.0; parameters]))
    }

    /// Adds the gradient of `Σ_c weights[c]·logps[c]`.
    ///
    /// # Errors
    /// If the tape is not of this batch.
    pub fn add(&mut self, decoder: &Decoder, tape: Tape, batch: &PackedBatch, weights: &[f64]) -> Result<()> {
        match self {
            Self::Host(gradient) => decoder.backward(tape, batch, weights, gradient),
            Self::Device => decoder.add_device_gradient(tape, batch, weights),
        }
    }

    /// Its Euclidean norm; not finite if any of its numbers is not.
    ///
    /// # Errors
    /// If the device fails.
    pub fn norm(&self, decoder: &Decoder) -> Result<f64> {
        match self {
            Self::Host(gradient) => Ok(gradients::global_norm(gradient)),
            Self::Device => decoder.device_gradient_norm(),
        }
    }

    /// Steps the trained adapter, with the gradient of norm `norm` clipped to `most`. Whether all its numbers are finite.
    ///
    /// # Errors
    /// If the device fails.
    pub fn apply(
        self,
        decoder: &mut Decoder,
        optimizer: &mut Optimizer,
        (norm, most): (f64, Option<f64>),
        learning_rate: f64,
    ) -> Result<bool> {
        match self {
            Self::Device => {
                let factor = most.map_or(1.0, |most| gradients::factor(norm, most));
                optimizer.step_on(decoder, factor, learning_rate)
            }
            Self::Host(mut gradient) => {
                if let Some(most) = most {
                    gradients::clip(&mut gradient, norm, most);
                }
                let mut stepped = Ok(());
                if let Some(lora) = &mut decoder.trained {
                    lora.update(|values| stepped = optimizer.step(values, &gradient, learning_rate))?;
                }
                stepped?;
                Ok(decoder.trained.as_ref().is_none_or(|lora| lora.values().iter().all(|x| x.is_finite())))
            }
        }
    }
}
