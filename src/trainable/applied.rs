//! An adapter applied to a module's product, in the forward and backward pass.

use super::dropout::Dropout;
use super::kind::{Kept, Numbers};
use super::{Adapter, Adapters};
use crate::error::{Error, Result};
use crate::ops::Tensor;
use crate::ops::lora_linear::{Backward, Forward};

/// The adapter of one module during one pass.
#[derive(Clone, Copy, Debug)]
pub struct Applied<'a> {
    adapter: &'a Adapter,
    numbers: Numbers<'a>,
    /// Whether it is trained; only then does it have dropout and gradients.
    pub trained: bool,
}

impl<'a> Applied<'a> {
    pub(super) fn of(set: &'a Adapters, module: &str, trained: bool) -> Option<Self> {
        let numbers = Numbers { values: set.values(), version: set.version() };
        set.find(module).map(|adapter| Self { adapter, numbers, trained })
    }

    /// The adapter.
    pub fn adapter(&self) -> &'a Adapter {
        self.adapter
    }

    /// All values of its set, and their version number.
    pub fn numbers(&self) -> Numbers<'a> {
        self.numbers
    }

    /// Adds the adapter's contribution to the module's product.
    ///
    /// # Errors
    /// If the shapes do not match, or the adapter does not act on a product.
    pub fn forward(&self, product: &mut Forward<'a>, dropout: Option<Dropout>) -> Result<Kept> {
        let dropout = dropout.filter(|_| self.trained);
        match self.adapter {
            Adapter::Lora(lora) => lora.forward(self.numbers.values, product, dropout),
            Adapter::Dora(dora) => dora.forward(self.numbers, product, dropout),
            Adapter::Pissa(pissa) => pissa.forward(self.numbers.values, product, dropout),
            Adapter::Whole(_)
            | Adapter::TokenRows(_)
            | Adapter::Prefix(_)
            | Adapter::PrefixEncoder(_)
            | Adapter::Projected(_) => Err(self.elsewhere()),
            // It acts on the output.
            Adapter::Bottleneck(_) => Ok(Kept::default()),
        }
    }

    /// Adds the adapter's contribution to the gradient of the module's input `x [T, in]`. If it is trained, also adds
    /// its own gradients to `gradients`, which has the layout of its set's values. Only its own gradients need `x`,
    /// which may be absent otherwise.
    ///
    /// # Errors
    /// If the shapes do not match, or `x` is needed but absent.
    pub fn backward(
        &self,
        product: &mut Backward<'a>,
        kept: &'a Kept,
        x: Option<&Tensor>,
        gradients: &mut [f32],
    ) -> Result<()> {
        let gradients = self.trained.then_some(gradients);
        match self.adapter {
            Adapter::Lora(lora) => lora.backward(self.numbers.values, product, kept, x, gradients),
            Adapter::Dora(dora) => dora.backward(self.numbers, product, kept, x, gradients),
            Adapter::Pissa(pissa) => pissa.backward(self.numbers.values, product, kept, x, gradients),
            Adapter::Whole(_)
            | Adapter::TokenRows(_)
            | Adapter::Prefix(_)
            | Adapter::PrefixEncoder(_)
            | Adapter::Projected(_) => Err(self.elsewhere()),
            // It acts on the output.
            Adapter::Bottleneck(_) => Ok(()),
        }
    }

    /// Returns whether it changes the module's output `y [T, out]` instead of adding to the product.
    pub fn acts_on_output(&self) -> bool {
        matches!(self.adapter, Adapter::Bottleneck(_))
    }

    /// Changes the module's output, if [`Applied::acts_on_output`].
    ///
    /// # Errors
    /// If the shapes do not match.
    pub fn output(&self, y: Tensor, dropout: Option<Dropout>) -> Result<(Tensor, Kept)> {
        let Adapter::Bottleneck(bottleneck) = self.adapter else { return Ok((y, Kept::default())) };
        bottleneck.forward(self.numbers.values, &y, dropout.filter(|_| self.trained))
    }

    /// The backward pass of [`Applied::output`]: the gradient of the output before it, from that behind it. If it is
    /// trained, also adds its own gradients to `gradients`.
    ///
    /// # Errors
    /// If the shapes do not match.
    pub fn output_gradient(&self, dy: &Tensor, kept: &Kept, gradients: &mut [f32]) -> Result<Tensor> {
        let Adapter::Bottleneck(bottleneck) = self.adapter else { return Ok(dy.clone()) };
        bottleneck.backward(self.numbers.values, dy, kept, self.trained.then_some(gradients))
    }

    fn elsewhere(&self) -> Error {
        let (module, kind) = (self.adapter.module(), self.adapter.kind());
        Error::Model(format!("{module} is a linear module of a block, and {kind} does not act on one"))
    }
}
