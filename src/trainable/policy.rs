//! All adapters of a base, frozen and trained.

use super::{Adapter, Adapters, Applied};
use crate::error::{Error, Result};

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
    /// Whether the reference is the bare base, without the frozen adapters: those that are used together, not trained.
    pub bare_reference: bool,
}

impl Policy {
    /// Creates a policy with only a trained adapter.
    pub fn of(trained: Adapters) -> Self {
        Self { trained, ..Self::default() }
    }

    /// Creates the policy of adapters that are used together, whose reference is the bare base. LoRA is stacked into one
    /// adapter. Where one is of another kind each adds its own change, as above frozen adapters in training.
    ///
    /// # Errors
    /// If two adapters replace the same table, two have a scalar head, or a module has different sizes in two of them.
    pub fn stacked(parts: Vec<Adapters>) -> Result<Self> {
        let are_loras = parts.iter().flat_map(Adapters::iter).all(|adapter| adapter.as_lora().is_some());
        if parts.len() <= 1 || are_loras {
            return Ok(Self::of(Adapters::stacked(&parts)?));
        }
        check_together(&parts)?;
        let mut parts: Vec<Adapters> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        // The scalar head is read from the last one.
        let last = parts.iter().position(|part| part.score().is_some()).unwrap_or(parts.len() - 1);
        let trained = parts.remove(last);
        let frozen = parts.into_iter().map(|adapters| Frozen { adapters, reference_only: false }).collect();
        Ok(Self { frozen, trained, bare_reference: true })
    }

    /// Returns whether it differs from the reference: something is trained, or has been.
    pub fn is_adapted(&self) -> bool {
        !self.trained.is_empty()
    }

    /// Moves the adapter that only the reference uses towards the trained one, number by number:
    /// `reference ← share·trained + (1 − share)·reference` (TR-DPO, Gorbatovski et al. 2024, arXiv 2404.09656).
    pub fn move_reference(&mut self, share: f64) {
        let (share, keep) = (share as f32, (1.0 - share) as f32);
        let Self { frozen, trained, .. } = self;
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
    /// is set. If `trained` is set and something is trained, reference-only adapters are left out; if not, a bare reference
    /// has none.
    pub fn applied<'a>(&'a self, module: &str, trained: bool) -> Vec<Applied<'a>> {
        let trains = trained && self.is_adapted();
        let is_on = |frozen: &&Frozen| if trains { !frozen.reference_only } else { !self.bare_reference };
        let frozen = self.frozen.iter().filter(is_on);
        let frozen = frozen.filter_map(|frozen| Applied::of(&frozen.adapters, module, false));
        let trained = trains.then(|| Applied::of(&self.trained, module, true)).flatten();
        frozen.chain(trained).collect()
    }
}

/// Refuses adapters that cannot act together.
fn check_together(parts: &[Adapters]) -> Result<()> {
    for (at, part) in parts.iter().enumerate() {
        for adapter in part.iter().filter(|adapter| adapter.replaces_table()) {
            let module = adapter.module();
            let replaces = |other: &Adapters| other.find(module).is_some_and(Adapter::replaces_table);
            if let Some(other) = parts[..at].iter().position(replaces) {
                return Err(Error::Adapter(format!(
                    "{module} is replaced by adapter {} and by adapter {}, and a model has it once; leave one of the two out",
                    other + 1,
                    at + 1
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Dora, Lora, Module, Whole};
    use super::*;

    fn module(name: &str) -> Module {
        Module { name: name.into(), inputs: 3, outputs: 4 }
    }

    fn lora(name: &str) -> Adapters {
        Adapters::initialised([Lora::new(module(name), 2, 4.0, 2.0)], 1).unwrap()
    }

    fn dora(name: &str) -> Adapters {
        Adapters::zeros([Dora::new(Lora::new(module(name), 2, 4.0, 2.0))]).unwrap()
    }

    fn whole(name: &str) -> Adapters {
        Adapters::zeros([Whole::new(name.into(), (4, 3), false)]).unwrap()
    }

    fn kinds(policy: &Policy, module: &str, trained: bool) -> Vec<&'static str> {
        policy.applied(module, trained).iter().map(|applied| applied.adapter().kind()).collect()
    }

    #[test]
    fn adapters_of_several_kinds_act_together_above_a_bare_base() {
        let policy = Policy::stacked(vec![dora("m"), lora("m")]).unwrap();
        assert_eq!(kinds(&policy, "m", true), ["DoRA", "LoRA"]);
        assert!(kinds(&policy, "m", false).is_empty(), "the reference is the base");
        let policy = Policy::stacked(vec![lora("m"), lora("m")]).unwrap();
        assert!(policy.frozen.is_empty() && policy.trained.find_lora("m").unwrap().rank == 4);
        assert!(!Policy::stacked(Vec::new()).unwrap().is_adapted());
        let policy = Policy::stacked(vec![dora("m"), whole("head"), Adapters::default()]).unwrap();
        assert_eq!((kinds(&policy, "m", true), kinds(&policy, "head", true).len()), (vec!["DoRA"], 1));
    }

    #[test]
    fn the_scalar_head_is_the_last_one_and_a_table_is_replaced_once() {
        let reward = lora("m").with_score(3, 1).unwrap();
        let policy = Policy::stacked(vec![reward.copy(), dora("m")]).unwrap();
        assert!(policy.trained.score().is_some());
        assert_eq!(kinds(&policy, "m", true), ["DoRA", "LoRA"]);
        for parts in [vec![whole("head"), whole("head")], vec![reward.copy(), reward]] {
            let error = Policy::stacked(parts).unwrap_err().to_string();
            assert!(error.contains("by adapter 1 and by adapter 2"), "{error}");
        }
    }
}
