//! The settings of a forward pass: reference or policy, and dropout.

use std::fmt;

use crate::error::Result;
use crate::ops::Tensor;
use crate::trainable::{Applied, Dropout, Policy};

/// Which policy a forward pass computes. It is always an argument, never a state of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// π_ref: the base and its frozen adapters.
    Reference,
    /// π_θ: the base, its frozen adapters and the trained adapter.
    Policy,
}

/// What the projections of a pass need to know.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The adapters of the base.
    pub policy: &'a Policy,
    /// Which of the adapters apply.
    pub pass: Pass,
    /// Dropout on the trained adapter's input, while training.
    pub dropout: Option<Dropout>,
    /// Who sees the input of every linear module, if anyone.
    pub observer: Option<Observer<'a>>,
}

/// A function that is called with the path and the input `x [T, in]` of every linear module of a pass.
#[derive(Clone, Copy)]
pub struct Observer<'a>(pub &'a dyn Fn(&str, &Tensor) -> Result<()>);

impl fmt::Debug for Observer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

impl<'a> Context<'a> {
    /// The adapters that apply to a module in this pass.
    pub fn applied(&self, module: &str) -> Vec<Applied<'a>> {
        self.policy.applied(module, self.pass == Pass::Policy)
    }
}
