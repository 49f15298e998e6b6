//! What is asked for, and what was drawn.

use serde::{Deserialize, Serialize};

use super::SamplingConfig;

/// A prompt, and how and how often it is completed.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// How tokens are chosen. Completion `i` is sampled with [`SamplingConfig::for_completion`]`(i)`.
    pub sampling: SamplingConfig,
    /// Number of completions. They share the computation of the prompt.
    pub completions: usize,
}

impl Request {
    /// A request for one completion.
    pub fn new(prompt: Vec<u32>, sampling: SamplingConfig) -> Self {
        Self { prompt, sampling, completions: 1 }
    }
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

/// The reason a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// An end-of-text token or a stop text was sampled.
    Stop,
    /// The limit of new tokens or of the model's positions was reached.
    Length,
}

/// A completion of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Index of the request that it completes.
    pub prompt: usize,
    /// Index among the completions of that request.
    pub index: usize,
    /// The text, without special tokens or the stop text.
    pub text: String,
    /// The tokens, without the end-of-text token. Where a stop text ended the completion, they reach to its end.
    pub tokens: Vec<u32>,
    /// The end-of-text token, if one was drawn.
    pub end: Option<u32>,
    /// The log-prob of every token of [`Completion::drawn`], in nats, under the model as it is: at temperature 1, over the
    /// whole vocabulary, whatever the sampling was.
    pub logps: Vec<f32>,
    /// The same under the distribution that the tokens were drawn from: at the temperature of the sampling, limited by
    /// `top_k` and `top_p`. They are 0 for greedy choices, and [`Completion::logps`] for plain sampling at temperature 1.
    pub sampling_logps: Vec<f32>,
    /// Why the completion ended.
    pub finish_reason: FinishReason,
}

impl Completion {
    /// All tokens that were drawn: [`Completion::tokens`], and the end-of-text token if there is one.
    pub fn drawn(&self) -> Vec<u32> {
        self.tokens.iter().copied().chain(self.end).collect()
    }

    /// The log-prob of the completion under the model, in nats, with its end-of-text token if there is one.
    pub fn logp(&self) -> f64 {
        self.logps.iter().map(|logp| f64::from(*logp)).sum()
    }
}
