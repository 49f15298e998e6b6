//! Accumulates and applies a step's gradient where the decoder computes: in the parameter store, or on the device.

use super::gradients;
use super::optimizer::Optimizer;
use crate::data::PackedBatch;
use crate::error::Result;
use crate::model::decoder::{Decoder, Tape};
use crate::ops::host;
use crate::trainable::Policy;

/// Resets the gradient to zero.
///
/// # Errors
/// If the device fails.
pub fn clear(decoder: &Decoder, policy: &mut Policy) -> Result<()> {
    if decoder.is_on_device() {
        return decoder.clear_device_gradient(policy);
    }
    policy.trained.store_mut().clear_gradient();
    Ok(())
}

/// Adds the gradient of `Σ_c weights[c]·logps[c]` on the device.
///
/// # Errors
/// If the tape does not belong to this batch.
pub fn add(
    decoder: &Decoder,
    policy: &mut Policy,
    tape: Tape,
    batch: &PackedBatch,
    weights: &[f64],
) -> Result<()> {
    decoder.add_device_gradient(tape, batch, policy, weights)
}

/// Returns the gradient's Euclidean norm, which is not finite if any element is not.
///
/// # Errors
/// If the device fails.
pub fn norm(decoder: &Decoder, policy: &Policy) -> Result<f64> {
    if decoder.is_on_device() {
        return decoder.device_gradient_norm(policy);
    }
    Ok(gradients::global_norm(policy.trained.store().gradient()))
}

/// Updates the trained adapter, with the gradient of norm `norm` clipped to `most`. Returns whether all its parameters
/// are finite.
///
/// # Errors
/// If the device fails.
pub fn apply(
    decoder: &Decoder,
    policy: &mut Policy,
    optimizer: &mut Optimizer,
    (norm, most): (f64, Option<f64>),
    learning_rate: f64,
) -> Result<bool> {
    if decoder.is_on_device() {
        let factor = most.map_or(1.0, |most| gradients::factor(norm, most));
        return optimizer.step_on(decoder, policy, factor, learning_rate);
    }
    let store = policy.trained.store_mut();
    if let Some(most) = most {
        store.update_gradient(|gradient| gradients::clip(gradient, norm, most));
    }
    optimizer.step(store, learning_rate)?;
    Ok(host::are_finite(store.values()))
}
