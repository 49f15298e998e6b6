//! Token by token, until an end-of-text token, a stop text, or the limit.

use serde::Serialize;

use super::{Sampler, SamplingConfig};
use crate::data::ChatTokenizer;
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// An end-of-text token or a stop text.
    Stop,
    /// The limit of new tokens, or of the model's positions.
    Length,
}

/// A completed prompt.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The text, without special tokens and the stop text.
    pub text: String,
    /// The tokens, without the end-of-text token.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// When to end.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Tokens, at most.
    pub max_new_tokens: usize,
    /// End-of-text tokens.
    pub eos: Vec<u32>,
    /// Texts to stop before.
    pub stop: Vec<String>,
}

/// Completes `prompt` under one of the two policies.
///
/// # Errors
/// If the prompt is empty or longer than the model's positions.
pub fn complete(
    decoder: &Decoder,
    tokenizer: &ChatTokenizer,
    prompt: &[u32],
    pass: Pass,
    sampling: &SamplingConfig,
    limits: &Limits,
) -> Result<Completion> {
    if prompt.is_empty() {
        return Err(Error::Data(
            "the prompt is empty, and the tokenizer adds no BOS token to begin with".into(),
        ));
    }
    let room = decoder.spec().max_positions.saturating_sub(prompt.len());
    let most = limits.max_new_tokens.min(room);
    let mut sampler = Sampler::new(sampling);
    let mut cache = decoder.new_cache();
    let mut logits = decoder.step(prompt, &mut cache, pass)?;
    let mut tokens = Vec::new();
    while tokens.len() < most {
        if let Some(logit) = logits.iter().find(|logit| !logit.is_finite()) {
            return Err(Error::Model(format!(
                "after {} tokens the model gives {logit} for a token; an activation overflowed: compute with --dtype f32, or \
                 the adapter is damaged",
                prompt.len() + tokens.len()
            )));
        }
        let token = sampler.next(&logits)?;
        if limits.eos.contains(&token) {
            return finish(tokenizer, tokens, FinishReason::Stop, None);
        }
        tokens.push(token);
        if let Some(cut) = stopped(tokenizer, &tokens, &limits.stop)? {
            return finish(tokenizer, tokens, FinishReason::Stop, Some(cut));
        }
        if tokens.len() < most {
            logits = decoder.step(&[token], &mut cache, pass)?;
        }
    }
    finish(tokenizer, tokens, FinishReason::Length, None)
}

/// Where the text before the earliest stop text ends.
fn stopped(tokenizer: &ChatTokenizer, tokens: &[u32], stop: &[String]) -> Result<Option<usize>> {
    if stop.is_empty() {
        return Ok(None);
    }
    let text = tokenizer.decode(tokens, true)?;
    Ok(stop.iter().filter_map(|s| text.find(s.as_str())).min())
}

fn finish(
    tokenizer: &ChatTokenizer,
    tokens: Vec<u32>,
    finish_reason: FinishReason,
    cut: Option<usize>,
) -> Result<Completion> {
    let mut text = tokenizer.decode(&tokens, true)?;
    text.truncate(cut.unwrap_or(text.len()));
    Ok(Completion { text, tokens, finish_reason })
}
