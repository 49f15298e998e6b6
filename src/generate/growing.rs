//! A completion in progress.

use super::completion::{Completion, FinishReason, Limits};
use super::sampler::{Drawn, Sampler, SamplingConfig};
use crate::data::ChatTokenizer;
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::ops::simd;
use crate::trainable::Policy;

/// A completion in progress.
pub(super) struct Growing {
    /// The request, and the index among its completions.
    at: (usize, usize),
    /// Number of tokens of the prompt.
    prompt: usize,
    sampler: Sampler,
    tokens: Vec<u32>,
    end: Option<u32>,
    logps: Vec<f32>,
    sampling_logps: Vec<f32>,
    /// Maximum number of tokens.
    most: usize,
}

/// Returns the number of new tokens that fit after a prompt, before which a policy may put virtual ones.
pub(super) fn room(
    decoder: &Decoder,
    (policy, pass): (&Policy, Pass),
    prompt: &[u32],
    limits: &Limits,
) -> Result<usize> {
    if prompt.is_empty() {
        return Err(Error::Data(
            "the prompt is empty, and the tokenizer adds no BOS token to begin with".into(),
        ));
    }
    let before = decoder.virtual_tokens(policy, pass)? + prompt.len();
    Ok(limits.max_new_tokens.min(decoder.spec().max_positions.saturating_sub(before)))
}

impl Growing {
    /// Starts completion `at.1` of request `at.0`, which has a prompt of `prompt` tokens.
    pub(super) fn new(at: (usize, usize), prompt: usize, sampling: &SamplingConfig, most: usize) -> Self {
        let sampler = Sampler::new(&sampling.for_completion(at.1));
        let (tokens, logps, sampling_logps) = (Vec::new(), Vec::new(), Vec::new());
        Self { at, prompt, sampler, tokens, end: None, logps, sampling_logps, most }
    }

    /// The next input token of the model.
    pub(super) fn next(&self) -> &[u32] {
        &self.tokens[self.tokens.len().saturating_sub(1)..]
    }

    /// The tokens so far.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Samples a token and returns the completion if that token ended it.
    pub(super) fn take(
        &mut self,
        logits: &[f32],
        tokenizer: &ChatTokenizer,
        limits: &Limits,
    ) -> Result<Option<Completion>> {
        if self.tokens.len() >= self.most {
            return self.finish(tokenizer, FinishReason::Length, None);
        }
        if let Some(logit) = not_finite(logits) {
            return Err(Error::Model(format!(
                "after {} tokens the model gives {logit} for a token; an activation overflowed: compute with --dtype f32, or \
                 the adapter is damaged",
                self.prompt + self.tokens.len()
            )));
        }
        let Drawn { token, logp, sampling_logp } = self.sampler.draw(logits)?;
        self.logps.push(logp);
        self.sampling_logps.push(sampling_logp);
        if limits.eos.contains(&token) {
            self.end = Some(token);
            return self.finish(tokenizer, FinishReason::Stop, None);
        }
        self.tokens.push(token);
        if let Some(cut) = stopped(tokenizer, &self.tokens, &limits.stop)? {
            return self.finish(tokenizer, FinishReason::Stop, Some(cut));
        }
        if self.tokens.len() < self.most {
            Ok(None)
        } else {
            self.finish(tokenizer, FinishReason::Length, None)
        }
    }

    fn finish(
        &mut self,
        tokenizer: &ChatTokenizer,
        finish_reason: FinishReason,
        cut: Option<usize>,
    ) -> Result<Option<Completion>> {
        let tokens = std::mem::take(&mut self.tokens);
        let mut text = tokenizer.decode(&tokens, true)?;
        text.truncate(cut.unwrap_or(text.len()));
        let (prompt, index) = self.at;
        let (logps, sampling_logps) =
            (std::mem::take(&mut self.logps), std::mem::take(&mut self.sampling_logps));
        let end = self.end;
        Ok(Some(Completion { prompt, index, text, tokens, end, logps, sampling_logps, finish_reason }))
    }
}

/// The first logit that is infinite or NaN.
fn not_finite(logits: &[f32]) -> Option<f32> {
    if simd::are_finite(logits) { None } else { logits.iter().copied().find(|logit| !logit.is_finite()) }
}

/// Returns the length of the text before the first stop text.
fn stopped(tokenizer: &ChatTokenizer, tokens: &[u32], stop: &[String]) -> Result<Option<usize>> {
    if stop.is_empty() {
        return Ok(None);
    }
    let text = tokenizer.decode(tokens, true)?;
    Ok(stop.iter().filter_map(|s| text.find(s.as_str())).min())
}
