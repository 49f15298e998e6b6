//! Training on completions that the policy draws: generations with their rewards, and the steps that learn from them.

mod grouped;
mod micro;
mod online;
mod proximal;
mod rewards;

pub use grouped::{Held, Update, step as grouped_step};
pub use online::pairs;
pub use proximal::step as proximal_step;
pub use rewards::RewardSource;

use crate::data::{ChatTokenizer, Example};
use crate::error::{Error, Result};
use crate::generate::Completion;
use crate::model::decoder::Decoder;
use crate::objective::on_policy::advantages::{deviation, mean};
use crate::objective::{Figure, Metrics, Objective};
use crate::random::Stream;
use crate::ranks::Ranks;
use crate::reward;
use crate::rollout::{Asked, Drawing, Generation, asked, draw};
use crate::train::config::TrainConfig;
use crate::trainable::Policy;

/// Where the completions of a run and their rewards come from.
pub struct RolloutSource {
    /// How they are drawn.
    pub drawing: Drawing,
    /// The tokenizer of the prompts.
    pub tokenizer: ChatTokenizer,
    /// Tokens that end a completion.
    pub eos: Vec<u32>,
    /// The rewards, each with its weight.
    pub rewards: Vec<(RewardSource, f64)>,
    /// For each reward a text that differs if it gives others.
    pub identities: Vec<String>,
}

/// Returns the settings by which steps, batches and the learning rate are counted: with a loss of drawn completions, a step
/// has as many prompts as its completions are groups, and each generation has several steps.
///
/// # Errors
/// As [`Drawing::prompts`].
pub fn paced(config: &TrainConfig, drawing: Option<&Drawing>, objective: &Objective) -> Result<TrainConfig> {
    let (Some(drawing), Some(_)) = (drawing, objective.on_policy()) else { return Ok(config.clone()) };
    let completions = config.per_device_train_batch_size * config.gradient_accumulation_steps.max(1);
    Ok(TrainConfig {
        per_device_train_batch_size: drawing.prompts(completions)?,
        gradient_accumulation_steps: 1,
        num_train_epochs: config.num_train_epochs * drawing.iterations as f64,
        ..config.clone()
    })
}

/// A generation with its rewards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewarded {
    /// Prompts and completions.
    pub generation: Generation,
    /// The reward of each completion.
    pub rewards: Vec<f64>,
}

/// Prompts that are learned from together, and the stream that names the seeds of their completions.
pub struct Prompts {
    /// The prompts, without completions.
    pub examples: Vec<Example>,
    /// The stream.
    pub stream: Stream,
}

impl RolloutSource {
    /// Draws completions of lists of prompts and scores them. Of several ranks each draws for some of the prompts, and all
    /// have the same in the end.
    ///
    /// # Errors
    /// If a prompt does not fit the model, a reward fails, or a rank has failed.
    pub fn draw(
        &mut self,
        ranks: &Ranks,
        both: (&Decoder, &Policy),
        lists: Vec<Prompts>,
    ) -> Result<Vec<Rewarded>> {
        let all: Vec<Asked> = lists.iter().flat_map(|list| asked(&list.examples, list.stream)).collect();
        let own: Vec<Asked> = ranks.items(all.len()).map(|i| all[i]).collect();
        let completions = draw(both, (&self.tokenizer, &self.eos), &own, &self.drawing)?;
        let rewards = self.rewards(both.0, &own, &completions)?;
        let size = self.drawing.generations.max(1);
        let mut groups = completions.chunks(size).zip(rewards.chunks(size));
        let none = || Error::Train("a prompt was not completed".into());
        let mut drawn = ranks
            .all(all.len(), |_| {
                let (completions, rewards) = groups.next().ok_or_else(none)?;
                Ok((completions.to_vec(), rewards.to_vec()))
            })?
            .into_iter();
        let rewarded = |list: Prompts| {
            let mut rewarded = Rewarded::default();
            for (prompt, (completions, rewards)) in drawn.by_ref().take(list.examples.len()).enumerate() {
                let numbered = completions.into_iter().map(|it| Completion { prompt, ..it });
                rewarded.generation.completions.extend(numbered);
                rewarded.rewards.extend(rewards);
            }
            rewarded.generation.prompts = list.examples;
            rewarded
        };
        Ok(lists.into_iter().map(rewarded).collect())
    }

    /// The reward of each completion of these prompts.
    fn rewards(&mut self, decoder: &Decoder, of: &[Asked], completions: &[Completion]) -> Result<Vec<f64>> {
        let Self { drawing, tokenizer, rewards: sources, .. } = self;
        let mut rewards = vec![0.0; completions.len()];
        if completions.is_empty() {
            return Ok(rewards);
        }
        let texts = of
            .iter()
            .map(|asked| tokenizer.decode(&asked.prompt.prompt, true))
            .collect::<Result<Vec<_>>>()?;
        let prompt = |i: usize| (texts[i].as_str(), of[i].prompt.prompt.as_slice());
        for (source, weight) in sources {
            let found = source.with(decoder, |own| reward::score(own, completions, prompt))?;
            rewards.iter_mut().zip(found).for_each(|(sum, reward)| *sum += *weight * reward);
        }
        let is_cut = |completion: &Completion| !Generation::is_whole(completion);
        for (reward, completion) in rewards.iter_mut().zip(completions) {
            *reward -= if is_cut(completion) { drawing.missing_eos_penalty } else { 0.0 };
        }
        Ok(rewards)
    }
}

impl Rewarded {
    /// Adds figures of the completions to `metrics`; groups have `size` completions.
    pub fn measure(&self, size: usize, metrics: &mut Metrics) {
        let completions = &self.generation.completions;
        let count = completions.len() as u64;
        let groups: Vec<f64> = self.rewards.chunks(size.max(1)).map(deviation).collect();
        metrics.note(Figure::Reward, self.rewards.iter().sum(), count);
        if size > 1 {
            metrics.note(Figure::RewardStd, groups.iter().sum(), groups.len() as u64);
        }
        let tokens: usize = completions.iter().map(|completion| completion.logps.len()).sum();
        metrics.note(Figure::CompletionLength, tokens as f64, count);
        let cut = completions.iter().filter(|completion| !Generation::is_whole(completion)).count();
        metrics.note(Figure::ClippedCompletions, cut as f64, count);
        let surprise: f64 = completions.iter().map(|completion| -completion.logp()).sum();
        metrics.note(Figure::Entropy, surprise, tokens as u64);
    }

    /// Returns the mean reward.
    pub fn mean_reward(&self) -> f64 {
        mean(&self.rewards)
    }
}
