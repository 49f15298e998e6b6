//! Code shared by the two optimal-transport losses.

use super::pairs::{cross_entropy, smoothed};
use super::scored::{Scored, pair};
use super::terms::{Batch, Needs, Weighed, is_estimate};
use crate::error::{Error, Result};

/// Pairs of a whole micro-batch without soft labels, because sorting separates the pairs.
pub(super) const NEEDS: Needs = Needs { whole_batch: true, soft_labels: false, ..Needs::PAIRS };

/// Returns the pairs of the batch as indices of their chosen completions.
///
/// # Errors
/// Fails if a group is not a pair, or has a label other than 1.
pub(super) fn indices(batch: &Batch) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for (first, group) in batch.groups().filter(|(_, group)| !is_estimate(group)) {
        let label = pair(group)?.label();
        if label != 1.0 {
            return Err(Error::Train(format!(
                "a pair has the label {label}, and losses of optimal transport take hard labels only"
            )));
        }
        found.push(first);
    }
    Ok(found)
}

/// Returns `places` sorted by `of`, ascending; the sort is stable.
pub(super) fn sorted(places: &[usize], of: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut order = places.to_vec();
    order.sort_by(|a, b| of(*a).total_cmp(&of(*b)));
    order
}

/// Returns the cross-entropy of β·δ with target 1 − ε, and its slope with respect to δ.
pub(super) fn of_difference(beta: f64, label_smoothing: f64, delta: f64) -> (f64, f64) {
    let (loss, slope) = cross_entropy(beta * delta, smoothed(1.0, label_smoothing));
    (loss, beta * slope)
}

/// Returns log π_θ − log π_ref; `Objective::weigh` has already checked that there is a reference.
pub(super) fn ratio(completion: &Scored) -> f64 {
    completion.log_ratio().unwrap_or(f64::NAN)
}

/// Adds a loss to the group whose chosen completion is at index `place`.
pub(super) fn add_loss(batch: &Batch, place: usize, loss: f64, onto: &mut Weighed) {
    if let Some(group) = batch.groups().position(|(first, _)| first == place) {
        onto.losses[group] += loss;
    }
}
