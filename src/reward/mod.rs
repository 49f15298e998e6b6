//! Rewards: what a completion is worth, behind one trait.
//!
//! [`Spec`] is how a reward is written on the command line and in configurations. The rewards that need no model are made
//! by [`Spec::plain`]; [`LogRatio`] needs a decoder and its adapters.

mod best_of;
mod command;
mod log_ratio;
mod model;
mod pattern;
mod spec;
mod tiny_reviews;

use crate::error::{Error, Result};
use crate::generate::Completion;

pub use best_of::{best, best_of, expected_best, kl_bound};
pub use command::Command;
pub use log_ratio::LogRatio;
pub use model::RewardModel;
pub use pattern::Pattern;
pub use spec::Spec;
pub use tiny_reviews::TinyReviews;

/// A completion of a prompt, as a reward sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The prompt as the user wrote it, before any chat template.
    pub prompt: &'a str,
    /// The text of the completion.
    pub completion: &'a str,
    /// The tokens of the prompt, with those of the chat template.
    pub prompt_tokens: &'a [u32],
    /// The tokens of the completion as they were drawn, with the end-of-text token if there is one.
    pub tokens: &'a [u32],
}

/// Scores completions; more is better.
pub trait Reward {
    /// The name, as it stands in tables and logs: the spec.
    fn name(&self) -> String;

    /// Returns one finite reward for each sample, in order. A caller passes as many samples as it has: a reward may score
    /// them together.
    ///
    /// # Errors
    /// If a sample cannot be scored; the message names the reward and the cause.
    fn rewards(&mut self, samples: &[Sample]) -> Result<Vec<f64>>;
}

/// The number of characters of the completion.
#[derive(Clone, Copy, Debug, Default)]
pub struct Length;

impl Reward for Length {
    fn name(&self) -> String {
        "length".into()
    }

    fn rewards(&mut self, samples: &[Sample]) -> Result<Vec<f64>> {
        Ok(samples.iter().map(|sample| sample.completion.chars().count() as f64).collect())
    }
}

/// Rewards completions of one prompt or of several. `prompts` gives the text and the tokens of each request.
///
/// # Errors
/// As [`Reward::rewards`]; or if the reward returns another number of scores, or one that is not finite.
pub fn score<'a>(
    reward: &mut dyn Reward,
    completions: &'a [Completion],
    prompts: impl Fn(usize) -> (&'a str, &'a [u32]),
) -> Result<Vec<f64>> {
    let drawn: Vec<Vec<u32>> = completions.iter().map(Completion::drawn).collect();
    let samples = completions.iter().zip(&drawn).map(|(completion, tokens)| {
        let (prompt, prompt_tokens) = prompts(completion.prompt);
        Sample { prompt, completion: &completion.text, prompt_tokens, tokens }
    });
    checked(reward, &samples.collect::<Vec<_>>())
}

/// Rewards samples.
///
/// # Errors
/// As [`score`].
pub fn checked(reward: &mut dyn Reward, samples: &[Sample]) -> Result<Vec<f64>> {
    let rewards = reward.rewards(samples)?;
    if rewards.len() != samples.len() {
        return Err(Error::Data(format!(
            "the reward {} gave {} scores for {} completions",
            reward.name(),
            rewards.len(),
            samples.len()
        )));
    }
    match rewards.iter().find(|reward| !reward.is_finite()) {
        Some(found) => Err(Error::Data(format!(
            "the reward {} gave {found}, which is not a finite number",
            reward.name()
        ))),
        None => Ok(rewards),
    }
}
