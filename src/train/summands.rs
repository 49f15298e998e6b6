//! The sum of the gradients of a step's micro-batches, in the order of the micro-batches.
//!
//! The order decides the bits of a sum of floating-point numbers, and it must not depend on which rank computes what. The rank
//! that has the first micro-batches adds each to the sum as it comes; the others keep theirs until the sum arrives
//! ([`Ranks::sum_in_order`]).

use crate::error::Result;
use crate::ops::host;
use crate::ranks::Ranks;
use crate::trainable::Policy;

/// The gradients of this rank.
pub(super) struct Summands {
    way: Way,
    kept: Vec<Vec<f32>>,
}

#[derive(Clone, Copy)]
enum Way {
    /// The backward pass adds to the sum in the store.
    InPlace,
    /// Each gradient is computed by itself and added to the sum.
    Added,
    /// Each gradient is kept.
    Kept,
}

impl Summands {
    /// For a step of `all` micro-batches.
    pub fn new(policy: &Policy, ranks: &Ranks, all: usize) -> Self {
        // With one addition to each number in a backward pass, adding to the sum and adding the gradient to the sum are the
        // same. Tables and prefixes have several.
        let once = policy.trained.iter().all(|adapter| adapter.adds_once());
        let way = match (ranks.is_first(), once || all < 2) {
            (true, true) => Way::InPlace,
            (true, false) => Way::Added,
            (false, _) => Way::Kept,
        };
        Self { way, kept: Vec::new() }
    }

    /// Adds the gradient of a micro-batch, which `backward` adds to what it is given.
    ///
    /// # Errors
    /// Those of `backward`.
    pub fn add(
        &mut self,
        policy: &mut Policy,
        backward: impl FnOnce(&Policy, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        if matches!(self.way, Way::InPlace) {
            return policy.accumulate(backward);
        }
        let mut gradient = vec![0.0; policy.trained.values().len()];
        backward(policy, &mut gradient)?;
        match self.way {
            Way::Kept => self.kept.push(gradient),
            Way::InPlace | Way::Added => {
                policy.trained.store_mut().update_gradient(|sum| host::add(sum, &gradient))
            }
        }
        Ok(())
    }

    /// Adds the gradients of the other ranks; the sum is then in the store of every rank.
    ///
    /// # Errors
    /// If a rank has failed.
    pub fn finish(self, policy: &mut Policy, ranks: &Ranks) -> Result<()> {
        if ranks.is_alone() {
            return Ok(());
        }
        let mut done = Ok(());
        policy.trained.store_mut().update_gradient(|sum| done = ranks.sum_in_order(&self.kept, sum));
        done
    }
}
