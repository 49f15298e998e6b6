//! Rewards of completions, and the best of several.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::GenerateArgs;
use crate::error::Result;
use crate::generate::{Completion, Request};
use crate::model::decoder::Decoder;
use crate::reward::{Reward, best, kl_bound, score};
use crate::toolkit::Base;

/// Completions that are scored together, about: a command is started once for them.
const TOGETHER: usize = 256;

/// The completions of a prompt on one side.
pub(super) struct Group {
    /// Index of the prompt.
    pub(super) prompt: usize,
    /// `on` or `off`.
    pub(super) adapter: &'static str,
    pub(super) completions: Vec<Completion>,
    /// The reward of each completion, if a reward was asked for.
    pub(super) rewards: Option<Vec<f64>>,
}

impl Group {
    /// The index of the best completion, if there are rewards.
    pub(super) fn best(&self) -> Option<usize> {
        self.rewards.as_deref().and_then(best)
    }

    /// Its rewards in short, if a reward was asked for.
    pub(super) fn rewarded(&self) -> Option<OfGroup> {
        let rewards = self.rewards.as_deref()?;
        Some(OfGroup {
            adapter: self.adapter.into(),
            greatest: best(rewards).map_or(0.0, |best| rewards[best]),
            mean: rewards.iter().sum::<f64>() / rewards.len().max(1) as f64,
        })
    }
}

/// The rewards of the completions of a prompt on one side.
#[derive(Serialize, Deserialize)]
pub(super) struct OfGroup {
    adapter: String,
    greatest: f64,
    mean: f64,
}

/// By side: the number of prompts, the sum of the best rewards and that of the mean rewards.
#[derive(Default)]
pub(super) struct Sums(BTreeMap<String, (usize, f64, f64)>);

impl Sums {
    /// Adds groups.
    pub(super) fn add(&mut self, groups: &[OfGroup]) {
        for group in groups {
            let (prompts, greatest, means) = self.0.entry(group.adapter.clone()).or_default();
            *prompts += 1;
            *greatest += group.greatest;
            *means += group.mean;
        }
    }
}

/// The reward that was asked for.
pub(super) struct Rewarded<'a> {
    reward: Option<Box<dyn Reward + 'a>>,
    best_of: Option<usize>,
    compare: bool,
}

impl<'a> Rewarded<'a> {
    /// Makes the reward of the arguments.
    ///
    /// # Errors
    /// As [`Base::reward`].
    pub(super) fn new(args: &GenerateArgs, base: &Base, decoder: &'a Decoder) -> Result<Self> {
        let timeout = Duration::from_secs(args.reward_timeout);
        let reward = args.reward.as_ref().map(|spec| base.reward(decoder, spec, timeout)).transpose()?;
        Ok(Self { reward, best_of: args.best_of, compare: args.compare })
    }

    /// The number of prompts that are scored together. Without a reward each is shown when it is done.
    pub(super) fn prompts_together(&self, completions: usize) -> usize {
        if self.reward.is_some() { TOGETHER.div_ceil(completions.max(1)) } else { 1 }
    }

    /// Adds the rewards to groups of completions, if a reward was asked for.
    ///
    /// # Errors
    /// As [`score`].
    pub(super) fn score(
        &mut self,
        mut groups: Vec<Group>,
        prompts: &[String],
        requests: &[Request],
    ) -> Result<Vec<Group>> {
        let Some(reward) = &mut self.reward else { return Ok(groups) };
        let completions: Vec<Completion> =
            groups.iter().flat_map(|group| group.completions.iter().cloned()).collect();
        let prompt = |i: usize| (prompts[i].as_str(), &requests[i].prompt[..]);
        let mut rewards = score(&mut **reward, &completions, prompt)?.into_iter();
        for group in &mut groups {
            group.rewards = Some(rewards.by_ref().take(group.completions.len()).collect());
        }
        Ok(groups)
    }

    /// What is said at the end, a line for each side.
    pub(super) fn summary(&self, sums: &Sums) -> Vec<String> {
        let Some(reward) = &self.reward else { return Vec::new() };
        let line = |(adapter, (prompts, greatest, means)): (&String, &(usize, f64, f64))| {
            let side = if self.compare { format!("adapter {adapter}: ") } else { String::new() };
            let (greatest, mean) = (greatest / *prompts as f64, means / *prompts as f64);
            match self.best_of {
                None => format!("{side}mean reward {mean:.4} by {}", reward.name()),
                Some(n) => format!(
                    "{side}best of {n} by {}: mean reward {greatest:.4}, and {mean:.4} for one draw; \
                     KL(best of {n} || one draw) is at most log N - (N-1)/N = {:.4} nats",
                    reward.name(),
                    kl_bound(n)
                ),
            }
        };
        sums.0.iter().map(line).collect()
    }
}
