//! Micro-batches of drawn completions, and what is read of their tokens.

use crate::data::{Example, Kind, PackedBatch};
use crate::error::Result;
use crate::model::decoder::{Decoder, Read, Readout};
use crate::model::pass::Pass;
use crate::trainable::Policy;

/// A completion and its prompt: the index of the prompt, and the tokens with the end token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub prompt: usize,
    pub tokens: &'a [u32],
}

/// Packs completions; adjacent ones of a prompt share it.
pub(super) fn pack(prompts: &[Example], items: &[Item]) -> PackedBatch {
    let groups = items.chunk_by(|a, b| a.prompt == b.prompt);
    let examples: Vec<Example> = groups
        .map(|group| Example {
            completions: group.iter().map(|item| item.tokens.to_vec()).collect(),
            kind: Kind::Text,
            ..prompts[group[0].prompt].clone()
        })
        .collect();
    PackedBatch::new(&examples.iter().collect::<Vec<_>>())
}

/// Divides numbers of scored rows into lists of completions.
pub(super) fn by_completion(batch: &PackedBatch, numbers: &[f32]) -> Vec<Vec<f64>> {
    let of = |range: &std::ops::Range<usize>| numbers[range.clone()].iter().map(|x| f64::from(*x)).collect();
    batch.scored.iter().map(of).collect()
}

/// Joins lists of completions into numbers of scored rows.
pub(super) fn by_row(lists: &[Vec<f64>]) -> Vec<f32> {
    lists.iter().flatten().map(|x| *x as f32).collect()
}

/// Reads completions in micro-batches of `size`, and returns what was read of each, in order.
///
/// # Errors
/// If a completion does not fit the model.
pub(super) fn read(
    (decoder, policy, pass): (&Decoder, &Policy, Pass),
    prompts: &[Example],
    items: &[Item],
    size: usize,
    readout: Readout,
) -> Result<Vec<(Vec<f64>, Vec<f64>)>> {
    let mut all = Vec::with_capacity(items.len());
    for items in items.chunks(size.max(1)) {
        let batch = pack(prompts, items);
        let Read { logps, values } = decoder.read(&batch, policy, pass, readout)?;
        let none = || vec![Vec::new(); items.len()];
        let logps = if readout.logps { by_completion(&batch, &logps) } else { none() };
        let values = if readout.values { by_completion(&batch, &values) } else { none() };
        all.extend(logps.into_iter().zip(values));
    }
    Ok(all)
}
