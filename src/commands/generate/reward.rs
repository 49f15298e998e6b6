//! Rewards of completions, and the best of several.

use std::collections::BTreeMap;
use std::time::Duration;

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
}

/// The reward that was asked for, and the sums of what it gave.
pub(super) struct Rewarded<'a> {
    reward: Option<Box<dyn Reward + 'a>>,
    best_of: Option<usize>,
    compare: bool,
    /// By side: the number of prompts, the sum of the best rewards and that of the mean rewards.
    sums: BTreeMap<&'static str, (usize, f64, f64)>,
}

impl<'a> Rewarded<'a> {
    /// Makes the reward of the arguments.
    ///
    /// # Errors
    /// As [`Base::reward`].
    pub(super) fn new(args: &GenerateArgs, base: &Base, decoder: &'a Decoder) -> Result<Self> {
        let timeout = Duration::from_secs(args.reward_timeout);
        let reward = args.reward.as_ref().map(|spec| base.reward(decoder, spec, timeout)).transpose()?;
        Ok(Self { reward, best_of: args.best_of, compare: args.compare, sums: BTreeMap::new() })
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
            let of_group: Vec<f64> = rewards.by_ref().take(group.completions.len()).collect();
            let mean = of_group.iter().sum::<f64>() / of_group.len().max(1) as f64;
            let (prompts, greatest, means) = self.sums.entry(group.adapter).or_default();
            *prompts += 1;
            *greatest += best(&of_group).map_or(0.0, |best| of_group[best]);
            *means += mean;
            group.rewards = Some(of_group);
        }
        Ok(groups)
    }

    /// What is said at the end, a line for each side.
    pub(super) fn summary(&self) -> Vec<String> {
        let Some(reward) = &self.reward else { return Vec::new() };
        let line = |(adapter, (prompts, greatest, means)): (&&'static str, &(usize, f64, f64))| {
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
        self.sums.iter().map(line).collect()
    }
}
