//! Draws the completions of a generation.

use super::config::Drawing;
use crate::data::{ChatTokenizer, Example};
use crate::error::Result;
use crate::generate::{Completion, FinishReason, Limits, Request, Rollouts, SamplingConfig};
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::random::Stream;
use crate::trainable::Policy;

/// The completions of some prompts: those of the first, then of the second, ...
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// The prompts, without completions.
    pub prompts: Vec<Example>,
    /// The completions, in order; `prompt` is an index of `prompts`.
    pub completions: Vec<Completion>,
}

impl Generation {
    /// Returns whether a completion ended by itself.
    pub fn is_whole(completion: &Completion) -> bool {
        completion.finish_reason == FinishReason::Stop
    }
}

/// Draws completions of prompts from the policy. Each has a seed named by `stream`, the number of its prompt and its own, so
/// that it depends on nothing else that is drawn.
///
/// # Errors
/// As [`Rollouts::in_order`].
pub fn draw(
    (decoder, policy): (&Decoder, &Policy),
    (tokenizer, eos): (&ChatTokenizer, &[u32]),
    prompts: Vec<Example>,
    drawing: &Drawing,
    stream: Stream,
) -> Result<Generation> {
    let request = |(i, example): (usize, &Example)| Request {
        prompt: example.prompt.clone(),
        sampling: SamplingConfig {
            temperature: drawing.temperature,
            top_k: drawing.top_k,
            top_p: drawing.top_p,
            seed: stream.child(i as u64).key(),
        },
        completions: drawing.generations,
    };
    let requests: Vec<Request> = prompts.iter().enumerate().map(request).collect();
    let limits =
        Limits { max_new_tokens: drawing.max_completion_length, eos: eos.to_vec(), stop: Vec::new() };
    let completions =
        Rollouts::new(decoder, tokenizer, requests, (policy, Pass::Policy), &limits)?.in_order()?;
    Ok(Generation { prompts, completions })
}
