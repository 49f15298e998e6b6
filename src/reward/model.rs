//! A reward model: an adapter with a scalar head, which reads the reward at the end of prompt and completion.

use std::borrow::Borrow;

use super::{Reward, Sample};
use crate::data::{Example, Kind, Origin, PackedBatch};
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::trainable::Policy;

/// Completions in a batch; no reward depends on it.
const BATCH: usize = 16;

/// The rewards of a reward model. The tokens are those of the sample, so the model's base must have the sample's tokenizer.
pub struct RewardModel<'a, P = Policy> {
    decoder: &'a Decoder,
    policy: P,
    pad: Option<u32>,
    name: String,
}

impl<'a, P: Borrow<Policy>> RewardModel<'a, P> {
    /// The reward of `policy`, whose adapter has a scalar head, on the base of `decoder`. It is read at the last token that
    /// is not `pad`, as transformers does: of a tokenizer without padding, its EOS.
    pub fn new(decoder: &'a Decoder, policy: P, pad: Option<u32>, name: impl Into<String>) -> Self {
        Self { decoder, policy, pad, name: name.into() }
    }

    fn example(&self, sample: &Sample) -> Result<Example> {
        let last = sample.tokens.iter().rposition(|token| Some(*token) != self.pad);
        let completion = sample.tokens[..last.map_or(0, |last| last + 1)].to_vec();
        if completion.is_empty() && sample.prompt_tokens.is_empty() {
            return Err(Error::Data(format!(
                "the reward {}: a sample has no token to read it at",
                self.name
            )));
        }
        let (prompt, completions) = (sample.prompt_tokens.to_vec(), vec![completion]);
        Ok(Example { prompt, completions, kind: Kind::Text, origin: Origin::new("samples", 1) })
    }
}

impl<P: Borrow<Policy>> Reward for RewardModel<'_, P> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn rewards(&mut self, samples: &[Sample]) -> Result<Vec<f64>> {
        let mut rewards = Vec::with_capacity(samples.len());
        for samples in samples.chunks(BATCH) {
            let examples = samples.iter().map(|sample| self.example(sample)).collect::<Result<Vec<_>>>()?;
            let packed = PackedBatch::rewarded(&examples.iter().collect::<Vec<_>>());
            rewards.extend(self.decoder.logps(&packed, self.policy.borrow(), Pass::Policy)?);
        }
        Ok(rewards)
    }
}
