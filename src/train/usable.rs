//! Checks that the learned adapter is worth keeping: one that gives non-finite values must not replace one that does
//! not.

use crate::data::{Example, PackedBatch};
use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::objective::Needs;
use crate::trainable::{Adapters, Policy};

/// Returns what is wrong with the trained adapter, if anything: a parameter or moment that is not finite, or non-finite
/// log-probs (or rewards, if the objective needs those) for `probe`, a pair whose numbers were finite before.
///
/// # Errors
/// If the pair does not fit the model.
pub fn defect(
    decoder: &Decoder,
    policy: &Policy,
    (probe, needs): (Option<&Example>, Needs),
) -> Result<Option<String>> {
    if let Some(defect) = parameters(&policy.trained) {
        return Ok(Some(defect));
    }
    let mut moments = policy.trained.store().moments().iter();
    if let Some(moment) = moments.find(|moment| !moment.values.is_finite()) {
        return Ok(Some(format!("the optimizer's {} holds a number that is not finite", moment.name)));
    }
    let Some(probe) = probe else { return Ok(None) };
    let (batch, what) = match needs.rewards {
        true => (PackedBatch::rewarded(&[probe]), "reward"),
        false => (PackedBatch::new(&[probe]), "log-prob"),
    };
    let scores = decoder.logps(&batch, policy, Pass::Policy)?;
    let broken = scores.iter().find(|score| !score.is_finite());
    Ok(broken.map(|score| format!("its {what} of {} is {score}", probe.origin)))
}

/// Returns the first module with a parameter that is not finite.
pub fn parameters(trained: &Adapters) -> Option<String> {
    trained.not_finite().map(|(module, number)| format!("{module} holds {number}"))
}
