//! The sum of the gradients of a step's micro-batches, in the order of the micro-batches.
//!
//! The order decides the bits of a sum of floating-point numbers, and it must not depend on which rank computes what. The rank
//! that has the first micro-batches adds each to the sum as it comes; the others keep theirs until the sum arrives
//! ([`Ranks::sum_in_order`]). On cards all ranks keep theirs, in the memory of the host, or of the card if NCCL connects them.

use super::descent;
use crate::data::PackedBatch;
use crate::device::Buffer;
use crate::device::linked::Linked;
use crate::error::Result;
use crate::model::decoder::{Decoder, Tape};
use crate::ops::host;
use crate::ranks::Ranks;
use crate::trainable::Policy;

/// Where the sum of the gradients comes about.
#[derive(Clone, Copy)]
pub(super) struct Among<'a> {
    /// The processes that share the micro-batches.
    pub ranks: &'a Ranks,
    /// Their cards, if NCCL connects them.
    pub cards: Option<&'a Linked>,
}

/// The gradients of this rank.
pub(super) struct Summands<'a> {
    way: Way,
    among: Among<'a>,
    kept: Vec<Vec<f32>>,
    on_card: Vec<Buffer>,
}

#[derive(Clone, Copy)]
enum Way {
    /// The backward pass adds to the sum in the store, or on the card.
    InPlace,
    /// Each gradient is computed by itself and added to the sum.
    Added,
    /// Each gradient is kept.
    Kept,
    /// Each gradient is copied from the card and kept.
    Fetched,
    /// Each gradient is kept on the card.
    OnCard,
}

impl<'a> Summands<'a> {
    /// For a step of `all` micro-batches.
    pub fn new(decoder: &Decoder, policy: &Policy, among: Among<'a>, all: usize) -> Self {
        // With one addition to each number in a backward pass, adding to the sum and adding the gradient to the sum are the
        // same. Tables and prefixes have several.
        let once = policy.trained.iter().all(|adapter| adapter.adds_once());
        let way = if decoder.is_on_device() {
            match (among.ranks.is_alone(), among.cards) {
                (true, _) => Way::InPlace,
                (false, None) => Way::Fetched,
                (false, Some(_)) => Way::OnCard,
            }
        } else {
            match (among.ranks.is_first(), once || all < 2) {
                (true, true) => Way::InPlace,
                (true, false) => Way::Added,
                (false, _) => Way::Kept,
            }
        };
        Self { way, among, kept: Vec::new(), on_card: Vec::new() }
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
        if !matches!(self.way, Way::Added | Way::Kept) {
            return policy.accumulate(backward);
        }
        let mut gradient = vec![0.0; policy.trained.values().len()];
        backward(policy, &mut gradient)?;
        match self.way {
            Way::Kept => self.kept.push(gradient),
            _ => policy.trained.store_mut().update_gradient(|sum| host::add(sum, &gradient)),
        }
        Ok(())
    }

    /// Adds the gradient of `Σ_c weights[c]·logps[c]`, which is computed on this rank's card.
    ///
    /// # Errors
    /// If the tape does not belong to this batch, or the device fails.
    pub fn add_on_card(
        &mut self,
        decoder: &Decoder,
        policy: &mut Policy,
        tape: Tape,
        batch: &PackedBatch,
        weights: &[f64],
    ) -> Result<()> {
        match self.way {
            Way::InPlace | Way::Added | Way::Kept => descent::add(decoder, policy, tape, batch, weights)?,
            Way::Fetched | Way::OnCard => {
                descent::clear(decoder, policy)?;
                descent::add(decoder, policy, tape, batch, weights)?;
                match self.way {
                    Way::OnCard => self.on_card.push(decoder.device_gradient_copy(policy)?),
                    _ => self.kept.push(decoder.device_gradient(policy)?),
                }
            }
        }
        Ok(())
    }

    /// Adds the gradients of the other ranks; the sum is then in the store of every rank, or on its card.
    ///
    /// # Errors
    /// If a rank has failed.
    pub fn finish(&self, decoder: &Decoder, policy: &mut Policy) -> Result<()> {
        let Among { ranks, cards } = self.among;
        match (self.way, cards) {
            _ if ranks.is_alone() => Ok(()),
            (Way::OnCard, Some(cards)) => {
                decoder.give_device_gradient(policy, |sum| cards.sum_in_order(&self.on_card, sum))
            }
            (Way::Fetched | Way::OnCard, _) => {
                let mut sum = vec![0.0; policy.trained.values().len()];
                ranks.sum_in_order(&self.kept, &mut sum)?;
                decoder.give_device_gradient(policy, |given| given.write(bytemuck::cast_slice(&sum)))
            }
            (Way::InPlace | Way::Added | Way::Kept, _) => {
                let mut done = Ok(());
                let store = policy.trained.store_mut();
                store.update_gradient(|sum| done = ranks.sum_in_order(&self.kept, sum));
                done
            }
        }
    }

    /// Names the rank that computed a gradient that is not finite, for a message; nothing if there is one rank.
    ///
    /// # Errors
    /// If a rank has failed.
    pub fn origin(&self) -> Result<String> {
        let ranks = self.among.ranks;
        if ranks.is_alone() {
            return Ok(String::new());
        }
        let on_card = self.on_card.iter().map(Buffer::read::<f32>).collect::<Result<Vec<_>>>()?;
        let is_broken = self.kept.iter().chain(&on_card).flatten().any(|g| !g.is_finite());
        let mut named = ranks.named_where(is_broken)?;
        if named.is_empty() {
            // Its gradients are added already.
            named.push(ranks.named(0));
        }
        Ok(format!(", from {}", named.join(" and ")))
    }
}
