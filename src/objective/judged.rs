//! Code shared by the losses of single, judged completions.

use super::scored::{Role, Scored};
use super::terms::{Batch, Weighed, is_estimate};
use crate::error::{Error, Result};

/// Adds a loss that treats one completion at a time. `loss` takes a log-ratio and whether the completion is desirable,
/// and returns the loss and its slope with respect to the log-ratio.
///
/// # Errors
/// Fails if a group is not exactly one judged completion.
pub(super) fn add(
    batch: &Batch,
    weight: f64,
    onto: &mut Weighed,
    loss: impl Fn(f64, bool) -> (f64, f64),
) -> Result<()> {
    for (i, (first, group)) in batch.groups().enumerate().filter(|(_, (_, group))| !is_estimate(group)) {
        let (completion, desirable) = match group {
            [one @ Scored { role: Role::Desirable, .. }] => (one, true),
            [one @ Scored { role: Role::Undesirable, .. }] => (one, false),
            _ => return Err(Error::Train("the objective takes single judged completions".into())),
        };
        // `Objective::weigh` has already checked that there is a reference.
        let (found, slope) = loss(completion.log_ratio().unwrap_or(f64::NAN), desirable);
        onto.losses[i] += weight * found;
        onto.d_logps[first] += weight * slope;
    }
    Ok(())
}
