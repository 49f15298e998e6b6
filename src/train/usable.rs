//! Whether what a run learned is worth keeping: an adapter that gives no numbers must not replace one that does.

use crate::data::{Example, PackedBatch};
use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::trainable::{Adapters, Policy};

/// What is wrong with the trained adapter, if anything: a parameter or moment that is no finite number, or log-probs of
/// `probe`, a pair that had finite ones, that are none now.
///
/// # Errors
/// If the pair does not fit the model.
pub fn defect(decoder: &Decoder, policy: &Policy, probe: Option<&Example>) -> Result<Option<String>> {
    if let Some(defect) = parameters(&policy.trained) {
        return Ok(Some(defect));
    }
    let mut moments = policy.trained.store().moments().iter();
    if let Some(moment) = moments.find(|moment| !moment.values.iter().all(|x| x.is_finite())) {
        return Ok(Some(format!("the optimizer's {} holds what is no finite number", moment.name)));
    }
    let Some(probe) = probe else { return Ok(None) };
    let logps = decoder.logps(&PackedBatch::new(&[probe]), policy, Pass::Policy)?;
    let broken = logps.iter().find(|logp| !logp.is_finite());
    Ok(broken.map(|logp| format!("its log-prob of {} is {logp}", probe.origin)))
}

/// The first module with a parameter that is no finite number.
pub fn parameters(trained: &Adapters) -> Option<String> {
    trained.not_finite().map(|(module, number)| format!("{module} holds {number}"))
}
