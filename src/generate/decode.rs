//! Decoding one token at a time, until an end-of-text token, a stop text or the limit.

use rayon::prelude::*;
use serde::Serialize;

use super::{Sampler, SamplingConfig};
use crate::data::ChatTokenizer;
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::engine::{DeviceCache, Next};
use crate::model::pass::Pass;
use crate::trainable::Policy;

/// The reason a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// An end-of-text token or a stop text was sampled.
    Stop,
    /// The limit of new tokens or of the model's positions was reached.
    Length,
}

/// The completion of a prompt.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The text, without special tokens or the stop text.
    pub text: String,
    /// The tokens, without the end-of-text token.
    pub tokens: Vec<u32>,
    /// Why the completion ended.
    pub finish_reason: FinishReason,
}

/// The conditions under which a completion ends.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Maximum number of new tokens.
    pub max_new_tokens: usize,
    /// End-of-text tokens.
    pub eos: Vec<u32>,
    /// Texts at which the completion is cut off.
    pub stop: Vec<String>,
}

/// A prompt and how its completion is sampled.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingConfig,
}

/// Number of sequences decoded at once.
pub const TOGETHER: usize = 64;

/// Completes `prompt` under one of the two policies formed by a base model and its adapters.
///
/// # Errors
/// Returns an error if the prompt is empty or longer than the model's positions.
pub fn complete(
    decoder: &Decoder,
    tokenizer: &ChatTokenizer,
    prompt: &[u32],
    (policy, pass): (&Policy, Pass),
    sampling: &SamplingConfig,
    limits: &Limits,
) -> Result<Completion> {
    let most = room(decoder, prompt, limits)?;
    let mut growing = Growing::new(prompt, sampling, most);
    let mut cache = decoder.new_cache();
    let mut logits = decoder.step(prompt, &mut cache, policy, pass)?;
    loop {
        if let Some(completion) = growing.take(&logits, tokenizer, limits)? {
            return Ok(completion);
        }
        logits = decoder.step(growing.next(), &mut cache, policy, pass)?;
    }
}

/// Completes all prompts, in order. On a device many are decoded at once; each text equals the one that the prompt gets
/// when decoded separately.
///
/// # Errors
/// Same as [`complete`].
pub fn complete_all(
    decoder: &Decoder,
    tokenizer: &ChatTokenizer,
    requests: &[Request],
    (policy, pass): (&Policy, Pass),
    limits: &Limits,
) -> Result<Vec<Completion>> {
    if !decoder.steps_together() {
        let alone =
            |r: &Request| complete(decoder, tokenizer, &r.prompt, (policy, pass), &r.sampling, limits);
        return requests.iter().map(alone).collect();
    }
    let mut done = Vec::with_capacity(requests.len());
    for requests in requests.chunks(TOGETHER) {
        done.extend(together(decoder, tokenizer, requests, (policy, pass), limits)?);
    }
    Ok(done)
}

fn together(
    decoder: &Decoder,
    tokenizer: &ChatTokenizer,
    requests: &[Request],
    (policy, pass): (&Policy, Pass),
    limits: &Limits,
) -> Result<Vec<Completion>> {
    let mut growing = Vec::with_capacity(requests.len());
    for Request { prompt, sampling } in requests {
        growing.push(Growing::new(prompt, sampling, room(decoder, prompt, limits)?));
    }
    let mut done: Vec<Option<Completion>> = vec![None; requests.len()];
    let mut cache = DeviceCache::default();
    let mut waiting: Vec<usize> = (0..requests.len()).collect();
    let mut seen = vec![0; requests.len()];
    while !waiting.is_empty() {
        let tokens = |i: usize| if seen[i] == 0 { &requests[i].prompt[..] } else { growing[i].next() };
        let next: Vec<Next> =
            waiting.iter().map(|i| Next { sequence: *i, seen: seen[*i], tokens: tokens(*i) }).collect();
        let logits = decoder.step_all(&next, &mut cache, policy, pass)?;
        let counts: Vec<usize> = next.iter().map(|next| next.tokens.len()).collect();
        let vocab = logits.len() / waiting.len();
        waiting.iter().zip(counts).for_each(|(i, count)| seen[*i] += count);
        // All sequences are sampled at once, each from its own logits.
        let mut active: Vec<(usize, &mut Growing)> =
            growing.iter_mut().enumerate().filter(|(i, _)| waiting.binary_search(i).is_ok()).collect();
        let ended = active
            .par_iter_mut()
            .zip(logits.par_chunks_exact(vocab))
            .map(|((i, growing), logits)| Ok((*i, growing.take(logits, tokenizer, limits)?)))
            .collect::<Result<Vec<_>>>()?;
        for (i, completion) in ended {
            done[i] = completion;
        }
        waiting.retain(|i| done[*i].is_none());
    }
    Ok(done.into_iter().flatten().collect())
}

/// Returns the number of new tokens that fit after a prompt.
pub(super) fn room(decoder: &Decoder, prompt: &[u32], limits: &Limits) -> Result<usize> {
    if prompt.is_empty() {
        return Err(Error::Data(
            "the prompt is empty, and the tokenizer adds no BOS token to begin with".into(),
        ));
    }
    Ok(limits.max_new_tokens.min(decoder.spec().max_positions.saturating_sub(prompt.len())))
}

/// A completion in progress.
pub(super) struct Growing {
    prompt: usize,
    sampler: Sampler,
    tokens: Vec<u32>,
    /// Maximum number of tokens.
    most: usize,
}

impl Growing {
    pub(super) fn new(prompt: &[u32], sampling: &SamplingConfig, most: usize) -> Self {
        Self { prompt: prompt.len(), sampler: Sampler::new(sampling), tokens: Vec::new(), most }
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
        if let Some(logit) = logits.iter().find(|logit| !logit.is_finite()) {
            return Err(Error::Model(format!(
                "after {} tokens the model gives {logit} for a token; an activation overflowed: compute with --dtype f32, or \
                 the adapter is damaged",
                self.prompt + self.tokens.len()
            )));
        }
        let token = self.sampler.next(logits)?;
        if limits.eos.contains(&token) {
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
        Ok(Some(Completion { text, tokens, finish_reason }))
    }
}

/// Returns the length of the text before the first stop text.
fn stopped(tokenizer: &ChatTokenizer, tokens: &[u32], stop: &[String]) -> Result<Option<usize>> {
    if stop.is_empty() {
        return Ok(None);
    }
    let text = tokenizer.decode(tokens, true)?;
    Ok(stop.iter().filter_map(|s| text.find(s.as_str())).min())
}
