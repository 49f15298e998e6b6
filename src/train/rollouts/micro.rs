//! Micro-batches of drawn completions, and what is read of their tokens.

use crate::data::{Example, Kind, PackedBatch};
use crate::error::Result;
use crate::model::decoder::{Decoder, Read, Readout, Tape, Training};
use crate::model::pass::Pass;
use crate::ranks::Ranks;
use crate::train::step::{Settings, share};
use crate::train::summands::{Among, Summands};
use crate::trainable::{Dropout, Policy};

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

/// Reads completions in micro-batches of `size`, and returns what was read of each, in order. Of several ranks each reads some
/// of the micro-batches.
///
/// # Errors
/// If a completion does not fit the model, or a rank has failed.
pub(super) fn read(
    ranks: &Ranks,
    (decoder, policy, pass): (&Decoder, &Policy, Pass),
    (prompts, items): (&[Example], &[Item]),
    size: usize,
    readout: Readout,
) -> Result<Vec<(Vec<f64>, Vec<f64>)>> {
    let parts: Vec<&[Item]> = items.chunks(size.max(1)).collect();
    // Bits, because a number that is not finite cannot be sent as one.
    let bits = |numbers: Vec<f32>| numbers.into_iter().map(f32::to_bits).collect::<Vec<u32>>();
    let read = ranks.all(parts.len(), |part| {
        let Read { logps, values } = decoder.read(&pack(prompts, parts[part]), policy, pass, readout)?;
        Ok((bits(logps), bits(values)))
    })?;
    let mut all = Vec::with_capacity(items.len());
    for (items, (logps, values)) in parts.into_iter().zip(read) {
        let batch = pack(prompts, items);
        let divided = |has: bool, bits: Vec<u32>| match has {
            true => by_completion(&batch, &bits.into_iter().map(f32::from_bits).collect::<Vec<f32>>()),
            false => vec![Vec::new(); items.len()],
        };
        all.extend(divided(readout.logps, logps).into_iter().zip(divided(readout.values, values)));
    }
    Ok(all)
}

/// How the forward pass of a micro-batch of an update is computed.
pub(super) fn training(settings: &Settings, index: usize) -> Training {
    let dropout = (settings.dropout > 0.0).then(|| Dropout {
        probability: settings.dropout as f32,
        stream: settings.stream.child(index as u64),
    });
    Training { dropout, recompute: settings.recompute, ..Training::default() }
}

/// Sums over the completions of an update, of which each micro-batch has a part.
pub(super) type Parts<const N: usize> = [f64; N];

/// Runs `work` on the micro-batches of an update that this rank has: it returns what a micro-batch adds to the loss and its
/// relatives, and the tape with the slopes. The gradients of all ranks are added in the order of the micro-batches, and so are
/// the parts, which are returned.
///
/// # Errors
/// Those of `work`, or if a rank has failed.
pub(super) fn descend<const N: usize>(
    (decoder, policy): (&Decoder, &mut Policy),
    batches: &[PackedBatch],
    ranks: &Ranks,
    mut work: impl FnMut(usize, &PackedBatch, &Policy) -> Result<(Parts<N>, Tape, Read)>,
) -> Result<Parts<N>> {
    let among = Among { ranks, cards: None };
    let mut summands = Summands::new(decoder, policy, among, batches.len());
    let mut own: Vec<Vec<u64>> = Vec::new();
    for i in share(batches, ranks) {
        let (parts, tape, slopes) = work(i, &batches[i], policy)?;
        summands.add(policy, |policy, gradient| decoder.backward_rows(tape, policy, &slopes, gradient))?;
        own.push(parts.map(f64::to_bits).to_vec());
    }
    let mut sums = [0.0; N];
    for parts in ranks.joined(own)? {
        sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += f64::from_bits(part));
    }
    summands.finish(decoder, policy)?;
    Ok(sums)
}
