//! The MLP of a block.

use super::pass::Context;
use super::projection::{self, Projection, Saved as Kept};
use super::spec::MlpSpec;
use super::tensors::Tensors;
use crate::error::Result;
use crate::ops::Tensor;
use crate::ops::gated_act::{self, Activation};
use crate::ops::gradient::Gradient;
use crate::ops::lora_linear::Input;
use crate::ops::profile::timed;

/// An MLP with its weights.
#[derive(Debug)]
pub struct Mlp {
    pub(super) input: Maps,
    pub(super) down: Projection,
    pub(super) act: Activation,
}

#[derive(Debug)]
pub(super) enum Maps {
    Gated { gate: Projection, up: Projection },
    Fused(Projection),
    Plain(Projection),
}

/// What the MLP's backward pass needs.
#[derive(Debug)]
pub struct Saved {
    inputs: Vec<Kept>,
    /// The input of the nonlinearity.
    gate: Tensor,
    /// The features that the gate multiplies.
    up: Option<Tensor>,
    down: Kept,
}

impl Saved {
    /// The number of values per row that an MLP of this architecture keeps, not counting what adapters keep.
    pub fn features(spec: &MlpSpec, hidden: usize) -> usize {
        // The input, and the inputs of the nonlinearity and its gating; the input of the down projection is recomputed.
        hidden
            + match spec {
                MlpSpec::Gated { gate, up, .. } => gate.outputs + up.outputs,
                MlpSpec::FusedGated { gate_up, .. } => gate_up.outputs,
                MlpSpec::Plain { up, .. } => up.outputs,
            }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> Vec<&Tensor> {
        let mut all = vec![&self.gate];
        all.extend(&self.up);
        all.extend(self.inputs.iter().chain([&self.down]).flat_map(Kept::held));
        all
    }
}

impl Mlp {
    /// Reads the weights.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(spec: &MlpSpec, tensors: &Tensors) -> Result<Self> {
        let (input, down, act) = match spec {
            MlpSpec::Gated { gate, up, down, act } => {
                let gate = Projection::load(gate, tensors)?;
                (Maps::Gated { gate, up: Projection::load(up, tensors)? }, down, *act)
            }
            MlpSpec::FusedGated { gate_up, down, act } => {
                (Maps::Fused(Projection::load(gate_up, tensors)?), down, *act)
            }
            MlpSpec::Plain { up, down, act } => (Maps::Plain(Projection::load(up, tensors)?), down, *act),
        };
        Ok(Self { input, down: Projection::load(down, tensors)?, act })
    }

    /// Computes `x [T, hidden] → [T, hidden]`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<(Tensor, Saved)> {
        let x = &Input::new(x.clone());
        let (gate, up, inputs) = match &self.input {
            Maps::Gated { gate, up } => {
                let ((gate, gate_kept), (up, up_kept)) = (gate.forward(x, context)?, up.forward(x, context)?);
                (gate, Some(up), vec![gate_kept, up_kept])
            }
            Maps::Fused(both) => {
                let (y, kept) = both.forward(x, context)?;
                let half = y.shape().1 / 2;
                let part = |start| y.columns(start..start + half);
                (part(0)?, Some(part(half)?), vec![kept])
            }
            Maps::Plain(up) => {
                let (y, kept) = up.forward(x, context)?;
                (y, None, vec![kept])
            }
        };
        let h = self.activate(&gate, up.as_ref())?;
        let (y, mut down) = self.down.forward(&Input::new(h), context)?;
        // The input is as wide as the gate and the up projection, and is cheap to recompute from them.
        down.forget_input();
        Ok((y, Saved { inputs, gate, up, down }))
    }

    fn activate(&self, gate: &Tensor, up: Option<&Tensor>) -> Result<Tensor> {
        timed("gated act forward", 0, || gated_act::forward(gate, up, self.act))
    }

    /// Computes `dy [T, hidden] → dx [T, hidden]`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn backward(
        &self,
        dy: &Tensor,
        saved: &Saved,
        context: &Context,
        gradients: &mut [f32],
    ) -> Result<Gradient> {
        let down = match self.down.is_trained(context) {
            true => &saved.down.restored(|| self.activate(&saved.gate, saved.up.as_ref()))?,
            false => &saved.down,
        };
        let dh = projection::backward(&[(&self.down, dy, down)], context, None, gradients)?.finish()?;
        let (d_gate, d_up) = match &saved.up {
            Some(up) => {
                let (d_gate, d_up) =
                    timed("gated act backward", 0, || gated_act::backward(&dh, &saved.gate, up, self.act))?;
                (d_gate, Some(d_up))
            }
            None => (gated_act::backward_plain(&dh, &saved.gate, self.act)?, None),
        };
        match (&self.input, d_up) {
            (Maps::Gated { gate, up }, Some(d_up)) => {
                let all = [(gate, &d_gate, &saved.inputs[0]), (up, &d_up, &saved.inputs[1])];
                projection::backward(&all, context, None, gradients)
            }
            (Maps::Fused(both), Some(d_up)) => {
                let dy = Tensor::beside(&[&d_gate, &d_up])?;
                projection::backward(&[(both, &dy, &saved.inputs[0])], context, None, gradients)
            }
            (Maps::Gated { gate: one, .. } | Maps::Fused(one) | Maps::Plain(one), _) => {
                projection::backward(&[(one, &d_gate, &saved.inputs[0])], context, None, gradients)
            }
        }
    }
}
