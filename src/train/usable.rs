//! Whether what a run learned is worth keeping: an adapter that gives no numbers must not replace one that does.

use super::optimizer::Optimizer;
use crate::data::{Example, PackedBatch};
use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;

/// What is wrong with the trained adapter, if anything: a parameter or moment that is no finite number, or log-probs of
/// `probe`, a pair that had finite ones, that are none now.
///
/// # Errors
/// If the pair does not fit the model.
pub fn defect(decoder: &Decoder, optimizer: &Optimizer, probe: Option<&Example>) -> Result<Option<String>> {
    if let Some(defect) = parameters(decoder) {
        return Ok(Some(defect));
    }
    if let Some((name, _)) =
        optimizer.state().into_iter().find(|(_, slice)| !slice.iter().all(|x| x.is_finite()))
    {
        return Ok(Some(format!("the optimizer's {name} holds what is no finite number")));
    }
    let Some(probe) = probe else { return Ok(None) };
    let logps = decoder.logps(&PackedBatch::new(&[probe]), Pass::Policy)?;
    let broken = logps.iter().find(|logp| !logp.is_finite());
    Ok(broken.map(|logp| format!("its log-prob of {} is {logp}", probe.origin)))
}

/// The first module with a parameter that is no finite number.
pub fn parameters(decoder: &Decoder) -> Option<String> {
    let lora = decoder.trained.as_ref()?;
    let at = lora.values().iter().position(|x| !x.is_finite())?;
    let module = lora.slots().iter().find(|slot| slot.b().end > at).map_or("?", |slot| slot.module.as_str());
    Some(format!("{module} holds {}", lora.values()[at]))
}
