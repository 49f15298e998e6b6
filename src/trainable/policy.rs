//! All adapters of a base, frozen and trained.

use super::{Adapters, Applied};
use crate::error::Result;

/// An adapter that is not trained.
#[derive(Debug)]
pub struct Frozen {
    /// Its adapters, by module.
    pub adapters: Adapters,
    /// Whether only the reference uses it: a frozen copy of the trained adapter's starting point.
    pub reference_only: bool,
}

/// The adapters of a base. A bare base is a policy without frozen and trained adapters.
#[derive(Debug, Default)]
pub struct Policy {
    /// The adapters that are not trained.
    pub frozen: Vec<Frozen>,
    /// The trained adapter; empty if there is none.
    pub trained: Adapters,
}

impl Policy {
    /// Creates a policy with only a trained adapter.
    pub fn of(trained: Adapters) -> Self {
        Self { frozen: Vec::new(), trained }
    }

    /// Returns whether it differs from the reference: something is trained, or has been.
    pub fn is_adapted(&self) -> bool {
        !self.trained.is_empty()
    }

    /// Moves the adapter that only the reference uses towards the trained one, number by number:
    /// `reference ← share·trained + (1 − share)·reference` (TR-DPO, Gorbatovski et al. 2024, arXiv 2404.09656).
    pub fn move_reference(&mut self, share: f64) {
        let (share, keep) = (share as f32, (1.0 - share) as f32);
        let Self { frozen, trained } = self;
        for Frozen { adapters, .. } in frozen.iter_mut().filter(|frozen| frozen.reference_only) {
            adapters.update(|values| {
                for (reference, policy) in values.iter_mut().zip(trained.values()) {
                    *reference = *reference * keep + share * policy;
                }
            });
        }
    }

    /// Returns the adapter that only the reference uses.
    pub fn reference_only(&self) -> Option<&Adapters> {
        self.frozen.iter().find(|frozen| frozen.reference_only).map(|frozen| &frozen.adapters)
    }

    /// The same, to be changed.
    pub fn reference_only_mut(&mut self) -> Option<&mut Adapters> {
        self.frozen.iter_mut().find(|frozen| frozen.reference_only).map(|frozen| &mut frozen.adapters)
    }

    /// Calls `work` with all adapters and the gradient of the trained one, for it to add to. The gradient starts with
    /// [`Store::clear_gradient`](super::Store::clear_gradient).
    ///
    /// # Errors
    /// The errors of `work`.
    pub fn accumulate<T>(&mut self, work: impl FnOnce(&Self, &mut [f32]) -> Result<T>) -> Result<T> {
        let mut gradient = self.trained.store_mut().take_gradient();
        let done = work(self, &mut gradient);
        self.trained.store_mut().put_gradient(gradient);
        done
    }

    /// Returns the adapters of a module in order of application: frozen ones first, then the trained one if `trained`
    /// is set. If `trained` is set and something is trained, reference-only adapters are left out.
    pub fn applied<'a>(&'a self, module: &str, trained: bool) -> Vec<Applied<'a>> {
        let trains = trained && self.is_adapted();
        let frozen = self.frozen.iter().filter(|frozen| !(frozen.reference_only && trains));
        let frozen = frozen.filter_map(|frozen| Applied::of(&frozen.adapters, module, false));
        let trained = trains.then(|| Applied::of(&self.trained, module, true)).flatten();
        frozen.chain(trained).collect()
    }
}
