//! Training on completions that the policy draws: generations with their rewards, and the steps that learn from them.

mod grouped;
mod micro;
mod online;
mod proximal;
mod rewards;

pub use grouped::{Held, Update, masks_truncated, step as grouped_step};
pub use online::pairs;
pub use proximal::step as proximal_step;
pub use rewards::RewardSource;

use crate::data::{ChatTokenizer, Example};
use crate::error::{Error, Result};
use crate::generate::Completion;
use crate::model::decoder::Decoder;
use crate::objective::on_policy::advantages::{deviation, mean};
use crate::objective::{Figure, Metrics, Objective, OnPolicy};
use crate::random::Stream;
use crate::ranks::Ranks;
use crate::reward;
use crate::rollout::{Asked, Drawing, Generation, asked, draw};
use crate::train::config::TrainConfig;
use crate::trainable::Policy;

/// The greatest magnitude of a reward: advantages need its square.
const GREATEST: f64 = 1e150;

/// Characters of a prompt that a message quotes.
const QUOTED: usize = 80;

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
/// As [`Drawing::prompts`]; or if PPO's mini-batches do not divide the completions of a step.
pub fn paced(config: &TrainConfig, drawing: Option<&Drawing>, objective: &Objective) -> Result<TrainConfig> {
    let (Some(drawing), Some(loss)) = (drawing, objective.on_policy()) else { return Ok(config.clone()) };
    let completions = config.per_device_train_batch_size * config.gradient_accumulation_steps.max(1);
    let prompts = drawing.prompts(completions)?;
    if let OnPolicy::Proximal(ppo) = loss {
        ppo.check_mini_batches(completions)?;
    }
    Ok(TrainConfig {
        per_device_train_batch_size: prompts,
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
    /// For each prompt its text before any chat template, as rewards read it. `None`, or no entry: its tokens as text.
    pub texts: Vec<Option<String>>,
    /// The stream.
    pub stream: Stream,
}

impl Prompts {
    /// The text of each prompt.
    fn texts(&self) -> impl Iterator<Item = Option<&str>> {
        (0..self.examples.len()).map(move |i| self.texts.get(i).and_then(Option::as_deref))
    }
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
        let texts: Vec<Option<&str>> = lists.iter().flat_map(Prompts::texts).collect();
        let own: Vec<Asked> = ranks.items(all.len()).map(|i| all[i]).collect();
        let texts = own.iter().zip(ranks.items(all.len())).map(|(asked, i)| self.text(asked, texts[i]));
        let texts = texts.collect::<Result<Vec<String>>>()?;
        let completions = draw(both, (&self.tokenizer, &self.eos), &own, &self.drawing)?;
        let rewards = self.rewards(both.0, (&own, &texts), &completions)?;
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

    /// The text of a prompt as rewards read it: as it was written, or its tokens as text if that is not known.
    fn text(&self, asked: &Asked, written: Option<&str>) -> Result<String> {
        written.map_or_else(|| self.tokenizer.decode(&asked.prompt.prompt, true), |text| Ok(text.into()))
    }

    /// The reward of each completion of these prompts, which have these texts.
    fn rewards(
        &mut self,
        decoder: &Decoder,
        (of, texts): (&[Asked], &[String]),
        completions: &[Completion],
    ) -> Result<Vec<f64>> {
        let Self { drawing, rewards: sources, .. } = self;
        let mut rewards = vec![0.0; completions.len()];
        if completions.is_empty() {
            return Ok(rewards);
        }
        let prompt = |i: usize| (texts[i].as_str(), of[i].prompt.prompt.as_slice());
        for (source, weight) in sources {
            let found = source.with(decoder, |own| reward::score(own, completions, prompt))?;
            rewards.iter_mut().zip(found).for_each(|(sum, reward)| *sum += *weight * reward);
        }
        let is_cut = |completion: &Completion| !Generation::is_whole(completion);
        for (reward, completion) in rewards.iter_mut().zip(completions) {
            *reward -= if is_cut(completion) { drawing.missing_eos_penalty } else { 0.0 };
        }
        match rewards.iter().zip(completions).find(|(reward, _)| reward.is_nan() || reward.abs() > GREATEST) {
            None => Ok(rewards),
            Some((reward, completion)) => Err(too_great(*reward, &texts[completion.prompt])),
        }
    }
}

/// The error for a reward whose square is not a finite number.
fn too_great(reward: f64, prompt: &str) -> Error {
    let shown: String = prompt.chars().take(QUOTED).collect();
    Error::Data(format!(
        "the reward of a completion of the prompt {shown:?} is {reward:e} (with rollout.reward_weights and \
         rollout.missing_eos_penalty); the deviation of such rewards is no finite number. It must be from {:e} to {GREATEST:e}: \
         divide what rollout.reward gives, or lower its weight",
        -GREATEST
    ))
}

impl Rewarded {
    /// Adds figures of the completions to `metrics`. A prompt has `size` completions, and so many adjacent completions as
    /// `compared` says are learned from by comparing their rewards.
    pub fn measure(&self, size: usize, compared: usize, metrics: &mut Metrics) {
        let completions = &self.generation.completions;
        let count = completions.len() as u64;
        let groups: Vec<f64> = self.rewards.chunks(size.max(1)).map(deviation).collect();
        metrics.note(Figure::Reward, self.rewards.iter().sum(), count);
        if size > 1 {
            metrics.note(Figure::RewardStd, groups.iter().sum(), groups.len() as u64);
        }
        if compared > 1 {
            let all = self.rewards.chunks(compared);
            let is_tied = |rewards: &&[f64]| rewards.windows(2).all(|pair| pair[0] == pair[1]);
            metrics.note(Figure::TiedRewards, all.clone().filter(is_tied).count() as f64, all.len() as u64);
        }
        let tokens: usize = completions.iter().map(|completion| completion.logps.len()).sum();
        metrics.note(Figure::CompletionLength, tokens as f64, count);
        let cut = completions.iter().filter(|completion| !Generation::is_whole(completion)).count();
        metrics.note(Figure::ClippedCompletions, cut as f64, count);
        let surprise = completions.iter().flat_map(|it| &it.sampling_logps).map(|logp| -f64::from(*logp));
        metrics.note(Figure::Entropy, surprise.sum(), tokens as u64);
    }

    /// Returns the mean reward.
    pub fn mean_reward(&self) -> f64 {
        mean(&self.rewards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::FinishReason;

    fn of(rewards: &[f64]) -> Rewarded {
        let completion = |index: usize| Completion {
            prompt: index / 2,
            index: index % 2,
            text: String::new(),
            tokens: vec![3],
            end: Some(0),
            logps: vec![-1.0; 2],
            sampling_logps: vec![-0.5, -2.5],
            finish_reason: FinishReason::Stop,
        };
        let completions = (0..rewards.len()).map(completion).collect();
        Rewarded { generation: Generation { prompts: Vec::new(), completions }, rewards: rewards.to_vec() }
    }

    #[test]
    fn figures_tell_of_ties_and_of_the_distribution_that_was_drawn_from() {
        let figures = |rewards: &[f64], compared| {
            let mut metrics = Metrics::default();
            of(rewards).measure(2, compared, &mut metrics);
            let mean = |figure| metrics.figure(figure).map(|(sum, count)| sum / count as f64);
            (mean(Figure::TiedRewards), mean(Figure::Entropy), mean(Figure::Reward))
        };
        assert_eq!(figures(&[0.5, 0.5, 2.0, 3.0], 2), (Some(0.5), Some(1.5), Some(1.5)));
        // Three times a tenth has a deviation by rounding, and is no difference.
        assert_eq!(figures(&[0.1; 6], 3).0, Some(1.0));
        // PPO compares all of them.
        assert_eq!(figures(&[1.0, 1.0, 2.0, 2.0], 4).0, Some(0.0));
        assert_eq!(figures(&[1.0], 1).0, None);
    }

    #[test]
    fn a_reward_without_a_square_names_prompt_and_remedy() {
        let said = too_great(-1e308, &format!("Why\u{1b}?{}", "x".repeat(200))).to_string();
        assert!(said.starts_with("the reward of a completion of the prompt \"Why\\u{1b}?xxx"), "{said}");
        assert!(said.contains("is -1e308 (") && said.contains("from -1e150 to 1e150"), "{said}");
        assert!(said.len() < 500, "{said}");
    }
}
