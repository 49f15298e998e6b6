//! An adapter at work: what a module's product passes through, forwards and backwards.

use candle_core::Tensor;

use super::dropout::Dropout;
use super::kind::Kept;
use super::{Adapter, Adapters};
use crate::error::Result;
use crate::ops::lora_linear::{Backward, Forward};

/// The adapter of one module in one pass.
#[derive(Clone, Copy, Debug)]
pub struct Applied<'a> {
    adapter: &'a Adapter,
    values: &'a [f32],
    /// Whether it trains: it has dropout and gradients then.
    pub trained: bool,
}

impl<'a> Applied<'a> {
    pub(super) fn of(set: &'a Adapters, module: &str, trained: bool) -> Option<Self> {
        set.find(module).map(|adapter| Self { adapter, values: set.values(), trained })
    }

    /// Adds its part to the module's product.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(&self, product: &mut Forward<'a>, dropout: Option<Dropout>) -> Result<Kept> {
        let dropout = dropout.filter(|_| self.trained);
        match self.adapter {
            Adapter::Lora(lora) => lora.forward(self.values, product, dropout),
        }
    }

    /// Adds its part to the gradient of the module's input `x [T, in]` and, if it trains, its own gradients to `gradients`,
    /// which are laid out as its set's numbers. Only its own gradients need `x`, which may be absent otherwise.
    ///
    /// # Errors
    /// If the shapes do not fit, or `x` is needed and absent.
    pub fn backward(
        &self,
        product: &mut Backward<'a>,
        kept: &'a Kept,
        x: Option<&Tensor>,
        gradients: &mut [f32],
    ) -> Result<()> {
        let gradients = self.trained.then_some(gradients);
        match self.adapter {
            Adapter::Lora(lora) => lora.backward(self.values, product, kept, x, gradients),
        }
    }
}
