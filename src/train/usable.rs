//! Checks that the learned adapter is worth keeping: one that gives non-finite values must not replace one that does
//! not.

use crate::data::{Example, PackedBatch};
use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::trainable::{Adapters, Policy};

/// Returns what is wrong with the trained adapter, if anything: a parameter or moment that is not finite, or non-finite
/// log-probs for `probe`, a pair whose log-probs were finite before.
///
/// # Errors
/// If the pair does not fit the model.
pub fn defect(decoder: &Decoder, policy: &Policy, probe: Option<&Example>) -> Result<Option<String>> {
    if let Some(defect) = parameters(&policy.trained) {
        return Ok(Some(defect));
    }
    let mut moments = policy.trained.store().moments().iter();
    if let Some(moment) = moments.find(|moment| !moment.values.is_finite()) {
        return Ok(Some(format!("the optimizer's {} holds a number that is not finite", moment.name)));
    }
    let Some(probe) = probe else { return Ok(None) };
    let logps = decoder.logps(&PackedBatch::new(&[probe]), policy, Pass::Policy)?;
    let broken = logps.iter().find(|logp| !logp.is_finite());
    Ok(broken.map(|logp| format!("its log-prob of {} is {logp}", probe.origin)))
}

/// Returns the first module with a parameter that is not finite.
pub fn parameters(trained: &Adapters) -> Option<String> {
    trained.not_finite().map(|(module, number)| format!("{module} holds {number}"))
}
