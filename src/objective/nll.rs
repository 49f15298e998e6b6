//! The negative log-likelihood over the tokens of a batch, used as a term by several losses.

use super::metrics::Figure;
use super::scored::Role;
use super::terms::{Batch, Weighed, is_estimate};

/// Adds `weight` times the mean negative log-prob per token of the completions selected by `imitated`, of which there
/// are `tokens_per_record` per record.
///
/// The loss of a record is its own contribution, so that the mean over records equals the mean over tokens.
pub(super) fn add(
    batch: &Batch,
    weight: f64,
    tokens_per_record: f64,
    imitated: impl Fn(Role) -> bool,
    onto: &mut Weighed,
) {
    let (mut sum, mut records) = (0.0, 0);
    for (i, (first, group)) in batch.groups().enumerate().filter(|(_, (_, group))| !is_estimate(group)) {
        records += 1;
        for (j, completion) in group.iter().enumerate().filter(|(_, completion)| imitated(completion.role)) {
            let loss = -completion.logp / tokens_per_record;
            sum += loss;
            onto.losses[i] += weight * loss;
            onto.d_logps[first + j] -= weight / tokens_per_record;
        }
    }
    onto.figures.push((Figure::NllLoss, sum, records));
}

/// Returns the number of tokens in the completions selected by `imitated`, per record of the batch.
pub(super) fn tokens_per_record(batch: &Batch, imitated: impl Fn(Role) -> bool) -> f64 {
    let tokens: usize = batch.iter().filter(|c| imitated(c.role)).map(|c| c.tokens).sum();
    let records = batch.groups().filter(|(_, group)| !is_estimate(group)).count();
    tokens.max(1) as f64 / records.max(1) as f64
}
