//! All that stands beside a base: what is frozen, and what trains.

use super::{Adapters, Applied};
use crate::error::Result;

/// Adapters that are not trained.
#[derive(Debug)]
pub struct Frozen {
    /// Its modules.
    pub adapters: Adapters,
    /// Whether it belongs to the reference alone: the frozen copy of what the trained adapter started from.
    pub reference_only: bool,
}

/// The adapters of a base. A base alone is a policy with nothing frozen and nothing trained.
#[derive(Debug, Default)]
pub struct Policy {
    /// Not trained.
    pub frozen: Vec<Frozen>,
    /// The trained adapter; empty if nothing is.
    pub trained: Adapters,
}

impl Policy {
    /// With a trained adapter alone.
    pub fn of(trained: Adapters) -> Self {
        Self { frozen: Vec::new(), trained }
    }

    /// Whether it differs from the reference: something trains, or was trained.
    pub fn is_adapted(&self) -> bool {
        !self.trained.is_empty()
    }

    /// Lets `work` add to the gradient of what trains, which [`Store::clear_gradient`](super::Store::clear_gradient) began,
    /// with all adapters at hand.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn accumulate<T>(&mut self, work: impl FnOnce(&Self, &mut [f32]) -> Result<T>) -> Result<T> {
        let mut gradient = self.trained.store_mut().take_gradient();
        let done = work(self, &mut gradient);
        self.trained.store_mut().put_gradient(gradient);
        done
    }

    /// The adapters of a module in the order they are applied: frozen ones, then, where `trained`, the trained one. What
    /// belongs to the reference alone is left out where something trains.
    pub fn applied<'a>(&'a self, module: &str, trained: bool) -> Vec<Applied<'a>> {
        let trains = trained && self.is_adapted();
        let frozen = self.frozen.iter().filter(|frozen| !(frozen.reference_only && trains));
        let frozen = frozen.filter_map(|frozen| Applied::of(&frozen.adapters, module, false));
        let trained = trains.then(|| Applied::of(&self.trained, module, true)).flatten();
        frozen.chain(trained).collect()
    }
}
