//! The implicit reward of an adapter: β·(log π − log π_ref) (Rafailov et al. 2023, arXiv 2305.18290, eq. 5).

use std::borrow::Borrow;

use super::{Reward, Sample};
use crate::data::{Example, Kind, Origin, PackedBatch};
use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::objective::{Objective, Role, Scored};
use crate::trainable::Policy;

/// Completions in a batch; no reward depends on it.
const BATCH: usize = 16;

/// The log-ratio of an adapter to its base, by the loss that the adapter was trained with. The tokens are those of the
/// sample, so the adapter's base must have the sample's tokenizer.
pub struct LogRatio<'a, P = Policy> {
    decoder: &'a Decoder,
    policy: P,
    objective: Objective,
    name: String,
}

impl<'a, P: Borrow<Policy>> LogRatio<'a, P> {
    /// The reward of `policy` over the base of `decoder`. The first loss of `objective` gives β; a loss without an
    /// implicit reward counts as DPO with its default β.
    pub fn new(decoder: &'a Decoder, policy: P, objective: Objective, name: impl Into<String>) -> Self {
        Self { decoder, policy, objective, name: name.into() }
    }

    /// Scores a few samples in one batch.
    fn batch(&self, samples: &[Sample]) -> Result<Vec<f64>> {
        // Consecutive completions of one prompt share its rows.
        let mut examples: Vec<Example> = Vec::new();
        for (line, sample) in samples.iter().enumerate() {
            match examples.last_mut() {
                Some(last) if last.prompt == sample.prompt_tokens => {
                    last.completions.push(sample.tokens.to_vec());
                }
                _ => examples.push(Example {
                    prompt: sample.prompt_tokens.to_vec(),
                    completions: vec![sample.tokens.to_vec()],
                    kind: Kind::Text,
                    origin: Origin::new("samples", line + 1),
                }),
            }
        }
        let packed = PackedBatch::new(&examples.iter().collect::<Vec<_>>());
        let logps = self.decoder.logps(&packed, self.policy.borrow(), Pass::Policy)?;
        let reference = self.decoder.logps(&packed, self.policy.borrow(), Pass::Reference)?;
        let tokens = packed.scored.iter().map(std::ops::Range::len);
        let reward = |((logp, ref_logp), tokens): ((&f64, &f64), usize)| {
            let (logp, ref_logp) = (*logp, Some(*ref_logp));
            let scored =
                Scored { group: 0, role: Role::Chosen, label: 1.0, margin: 0.0, logp, ref_logp, tokens };
            let implicit = self.objective.reward(&scored).or_else(|| Objective::default().reward(&scored));
            implicit.unwrap_or(0.0)
        };
        Ok(logps.iter().zip(&reference).zip(tokens).map(reward).collect())
    }
}

impl<P: Borrow<Policy>> Reward for LogRatio<'_, P> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn rewards(&mut self, samples: &[Sample]) -> Result<Vec<f64>> {
        let mut rewards = Vec::with_capacity(samples.len());
        for samples in samples.chunks(BATCH) {
            rewards.extend(self.batch(samples)?);
        }
        Ok(rewards)
    }
}
