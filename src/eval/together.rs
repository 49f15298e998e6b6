//! An evaluation that several ranks share: each scores some of the batches, and all derive the same figures.

use super::batches::Batches;
use super::figures::exchanged;
use super::finite::check_finite;
use super::preference::{Evaluation, Tally, figures};
use crate::data::{Dataset, PackedBatch};
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::objective::Objective;
use crate::ranks::{Ranks, shares};
use crate::trainable::Policy;

/// The reference log-probs that a rank has.
pub trait KnownReference {
    /// Returns those of a batch's completions, computed if they are not known; `None` where they are not needed.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    fn logps(&mut self, batch: &PackedBatch) -> Result<Option<Vec<f64>>>;

    /// Takes over those of another rank.
    fn learn(&mut self, batch: &PackedBatch, logps: &[f64]);
}

/// Evaluates the policy on `examples`, in batches of `batch`. The figures are those of one rank, to the bit.
///
/// # Errors
/// As [`super::preference::evaluate`], or if a rank has failed.
pub fn evaluate(
    ranks: &Ranks,
    (decoder, policy): (&Decoder, &Policy),
    (examples, batch): (&Dataset, usize),
    objective: &Objective,
    reference: &mut impl KnownReference,
) -> Result<Evaluation> {
    if examples.is_empty() {
        return Err(Error::Data("there are no records to evaluate".into()));
    }
    let needs = objective.needs();
    let cut = Batches::new(examples, batch, needs);
    let share = shares(&cut.tokens(), ranks.size()).get(ranks.rank()).cloned().unwrap_or_default();
    let mut own = Vec::with_capacity(share.len());
    for index in share {
        let (examples, packed) = cut.batch(index)?;
        let found = figures((decoder, policy), &packed, needs, |packed| reference.logps(packed))?;
        check_finite(&examples, &found.scored(&packed)?, "")?;
        own.push(found);
    }
    let mut tally = Tally::new(objective);
    for (index, figures) in exchanged(ranks, own)?.iter().enumerate() {
        let (_, packed) = cut.batch(index)?;
        figures.learned(&packed, |batch, logps| reference.learn(batch, logps));
        let (scored, found) = figures.judged(&packed, objective, None)?;
        tally.add(cut.first(index), &scored, &found);
    }
    Ok(tally.finish(policy))
}
