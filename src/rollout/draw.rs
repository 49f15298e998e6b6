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

/// A prompt to be completed, and the seed of its completions.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The prompt.
    pub prompt: &'a Example,
    /// The seed.
    pub seed: u64,
}

/// Names prompts that are drawn for together: each has a seed named by `stream` and its number.
pub fn asked(prompts: &[Example], stream: Stream) -> impl Iterator<Item = Asked<'_>> {
    prompts.iter().enumerate().map(move |(i, prompt)| Asked { prompt, seed: stream.child(i as u64).key() })
}

/// Draws completions of prompts from the policy: those of the first prompt, then of the second, and so on. They depend on
/// prompt and seed, and on nothing else that is drawn.
///
/// # Errors
/// As [`Rollouts::in_order`].
pub fn draw(
    (decoder, policy): (&Decoder, &Policy),
    (tokenizer, eos): (&ChatTokenizer, &[u32]),
    prompts: &[Asked],
    drawing: &Drawing,
) -> Result<Vec<Completion>> {
    let request = |asked: &Asked| Request {
        prompt: asked.prompt.prompt.clone(),
        sampling: SamplingConfig {
            temperature: drawing.temperature,
            top_k: drawing.top_k,
            top_p: drawing.top_p,
            seed: asked.seed,
        },
        completions: drawing.generations,
    };
    let requests: Vec<Request> = prompts.iter().map(request).collect();
    let limits =
        Limits { max_new_tokens: drawing.max_completion_length, eos: eos.to_vec(), stop: Vec::new() };
    Rollouts::new(decoder, tokenizer, requests, (policy, Pass::Policy), &limits)?.in_order()
}
