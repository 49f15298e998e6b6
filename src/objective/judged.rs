//! What the losses of single, judged completions share.

use super::scored::{Role, Scored};
use super::terms::{Batch, Weighed, is_estimate};
use crate::error::{Error, Result};

/// Adds a loss of one completion at a time: `loss` gives it and its slope by the log-ratio, for a log-ratio and whether
/// the completion is desirable.
///
/// # Errors
/// If a group is anything but one judged completion.
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
        // `Objective::weigh` has checked that there is a reference.
        let (found, slope) = loss(completion.log_ratio().unwrap_or(f64::NAN), desirable);
        onto.losses[i] += weight * found;
        onto.d_logps[first] += weight * slope;
    }
    Ok(())
}
