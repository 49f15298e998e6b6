//! What a rank computed of a micro-batch, as far as loss and metrics follow from it.

use serde::{Deserialize, Serialize};

use crate::data::PackedBatch;
use crate::error::{Error, Result};
use crate::objective::{Objective, Scored, Weighed};
use crate::ranks::Ranks;

/// Log-probs of the completions of a micro-batch, in their order, nats (of a reward model, rewards). Every rank derives the
/// same losses and metrics from those of all micro-batches, in the order of the micro-batches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Under the policy.
    pub logps: Vec<f64>,
    /// Under the reference, if the objective needs it.
    pub ref_logps: Option<Vec<f64>>,
    /// Of the mismatched completions under the policy, if the objective needs them.
    pub mismatched: Option<Vec<f64>>,
    /// The same under the reference.
    pub ref_mismatched: Option<Vec<f64>>,
    /// Σ_t (log π_θ − log Σ π_θ²), if the objective needs it.
    pub aligned: Option<Vec<f64>>,
}

impl Figures {
    /// Returns the scored completions of a batch, those of its mismatched ones last.
    ///
    /// # Errors
    /// If they are not those of this batch.
    pub fn scored(&self, batch: &PackedBatch) -> Result<Vec<Scored>> {
        let mut scored = batch.scored_completions(&self.logps, self.ref_logps.as_deref())?;
        if let (Some(mismatched), Some(logps)) = (&batch.mismatched, &self.mismatched) {
            let estimates = mismatched.scored_completions(logps, self.ref_mismatched.as_deref())?;
            // They form separate groups, numbered after those of the batch.
            let behind = |scored: Scored| Scored { group: batch.kinds.len() + scored.group, ..scored };
            scored.extend(estimates.into_iter().map(behind));
        }
        Ok(scored)
    }

    /// Returns the scored completions, and what the objective makes of them. `tokens_per_record` is given for texts in
    /// training.
    ///
    /// # Errors
    /// If they are not those of this batch.
    pub fn judged(
        &self,
        batch: &PackedBatch,
        objective: &Objective,
        tokens_per_record: Option<f64>,
    ) -> Result<(Vec<Scored>, Weighed)> {
        let scored = self.scored(batch)?;
        let mut found = match tokens_per_record {
            Some(tokens) => objective.weigh_part(&scored, tokens)?,
            None => objective.weigh(&scored)?,
        };
        if let Some(aligned) = &self.aligned {
            objective.weight(&scored, aligned, &mut found);
        }
        Ok((scored, found))
    }

    /// Calls `learn` with each batch that has reference log-probs, and them.
    pub fn learned(&self, batch: &PackedBatch, mut learn: impl FnMut(&PackedBatch, &[f64])) {
        if let Some(logps) = &self.ref_logps {
            learn(batch, logps);
        }
        if let (Some(batch), Some(logps)) = (&batch.mismatched, &self.ref_mismatched) {
            learn(batch, logps);
        }
    }

    fn lists(&self) -> [Option<&Vec<f64>>; 5] {
        let Self { logps, ref_logps, mismatched, ref_mismatched, aligned } = self;
        [Some(logps), ref_logps.as_ref(), mismatched.as_ref(), ref_mismatched.as_ref(), aligned.as_ref()]
    }

    /// Appends, for each list, the number of values plus 1 (0: there is none) and the values.
    fn write(&self, bytes: &mut Vec<u8>) {
        for list in self.lists() {
            bytes.extend((list.map_or(0, |list| list.len() as u64 + 1)).to_le_bytes());
            bytes.extend(list.into_iter().flatten().flat_map(|value| value.to_le_bytes()));
        }
    }

    /// Reads what [`Figures::write`] wrote, and returns the bytes behind it.
    fn read(mut bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut list = || -> Option<Option<Vec<f64>>> {
            let (count, rest) = bytes.split_first_chunk::<8>()?;
            let Some(count) = u64::from_le_bytes(*count).checked_sub(1) else {
                bytes = rest;
                return Some(None);
            };
            let (values, rest) = rest.split_at_checked(usize::try_from(count).ok()?.checked_mul(8)?)?;
            bytes = rest;
            Some(Some(values.as_chunks::<8>().0.iter().map(|value| f64::from_le_bytes(*value)).collect()))
        };
        let (logps, ref_logps, mismatched, ref_mismatched, aligned) =
            (list()??, list()?, list()?, list()?, list()?);
        Some((Self { logps, ref_logps, mismatched, ref_mismatched, aligned }, bytes))
    }
}

/// Returns the figures of all micro-batches from those of each rank, which has a range of them in the order of the ranks.
///
/// # Errors
/// If a rank has failed.
pub fn exchanged(ranks: &Ranks, own: Vec<Figures>) -> Result<Vec<Figures>> {
    if ranks.is_alone() {
        return Ok(own);
    }
    let mut bytes = Vec::new();
    own.iter().for_each(|figures| figures.write(&mut bytes));
    let mut all = Vec::new();
    for gathered in ranks.gather(bytes)? {
        let mut rest = &gathered[..];
        while !rest.is_empty() {
            let damaged = || Error::Ranks("the figures of a step that a rank sent are damaged".into());
            let (figures, behind) = Figures::read(rest).ok_or_else(damaged)?;
            all.push(figures);
            rest = behind;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_back_to_the_bit_and_damage_is_noticed() {
        let figures = Figures {
            logps: vec![-1.5, f64::NEG_INFINITY, -0.0],
            ref_logps: Some(vec![]),
            aligned: Some(vec![f64::MIN_POSITIVE]),
            ..Figures::default()
        };
        let mut bytes = Vec::new();
        figures.write(&mut bytes);
        Figures::default().write(&mut bytes);
        let (first, rest) = Figures::read(&bytes).unwrap();
        assert_eq!(first, figures);
        assert!(first.logps[2].is_sign_negative());
        assert_eq!(Figures::read(rest), Some((Figures::default(), &[][..])));
        for cut in 1..rest.len() {
            assert_eq!(Figures::read(&rest[..cut]), None);
        }
        assert_eq!(Figures::read(&u64::MAX.to_le_bytes()), None);
    }
}
