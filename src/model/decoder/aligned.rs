//! The probability of tokens beside that of all others, which weights pairs (`objective.use_weighting`).

use super::layout::{aligned, sums};
use super::{Decoder, Tape};
use crate::data::PackedBatch;
use crate::error::{Error, Result};
use crate::model::pass::{Context, Pass};
use crate::ops::token_logps::Asked;
use crate::trainable::Policy;

impl Tape {
    /// Returns Σ_t (log π_θ − log Σ π_θ²) of each completion, if the pass was asked for it.
    pub fn aligned(&self) -> Option<&[f64]> {
        match self {
            Self::Host(tape) => tape.aligned.as_deref(),
            Self::Device(_) => None,
        }
    }
}

impl Decoder {
    /// As [`Decoder::logps`], and Σ_t (log p − log Σ p²) of each completion.
    ///
    /// # Errors
    /// If the batch does not fit the model, or it computes on a device.
    pub fn aligned_logps(
        &self,
        batch: &PackedBatch,
        policy: &Policy,
        pass: Pass,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let batch = &*self.divided(batch);
        self.check_on_processor()?;
        let context = Context { policy, pass, dropout: None, observer: None };
        let scored = self.blocks(batch, &context, &batch.scored_rows, 1)?;
        let normed = self.final_norm.forward(&scored)?;
        let asked = Asked { squares: true, ..Asked::default() };
        let head = self.head_of(&context)?;
        let found = self.score_at(&normed, &head, &batch.scored_targets, asked, 1.0)?;
        Ok((sums(&found.logps, batch), aligned(&found, batch).unwrap_or_default()))
    }

    pub(super) fn check_on_processor(&self) -> Result<()> {
        match self.is_on_device() {
            false => Ok(()),
            true => Err(Error::Config(
                "objective.use_weighting is computed on the processor only; set model.device: cpu (--device cpu)".into(),
            )),
        }
    }
}
