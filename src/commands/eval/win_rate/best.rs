//! The policy that answers with the best of N samples.

use std::time::Duration;

use crate::cli::WinRateArgs;
use crate::commands::eval::scored::Scorer;
use crate::error::Result;
use crate::ranks::Ranks;
use crate::reward::{self, Reward};
use crate::toolkit::drawn::Kept;
use crate::toolkit::prompts::Prompt;
use crate::toolkit::{Adapted, Base, reward_identity};

/// How many samples, and by which reward the best is chosen.
pub(super) struct BestOf<'a> {
    pub(super) n: usize,
    /// The reward and what it is, on the rank that scores.
    reward: Option<(Box<dyn Reward + 'a>, String)>,
    scorer: Scorer,
}

impl<'a> BestOf<'a> {
    /// What the arguments ask for, if anything.
    ///
    /// # Errors
    /// As [`Base::reward`], or if the file of scores cannot be opened.
    pub(super) fn of(
        ranks: &Ranks,
        args: &WinRateArgs,
        base: &Base,
        policy: &'a Adapted,
    ) -> Result<Option<Self>> {
        let (Some(n), Some(spec)) = (args.best_of, &args.best_of_by) else { return Ok(None) };
        let scorer = Scorer::open(ranks, &args.output.join("scores.jsonl"))?;
        let timeout = Duration::from_secs(args.results.reward_timeout);
        let reward = match scorer.computes() {
            true => Some((base.reward(&policy.decoder, spec, timeout)?, reward_identity(spec)?)),
            false => None,
        };
        Ok(Some(Self { n, reward, scorer }))
    }

    /// The name of the policy.
    pub(super) fn named(&self, policy: &str) -> String {
        let by = self.reward.as_ref().map_or_else(String::new, |(reward, _)| reward.name());
        format!("{policy}, best of {} by {by}", self.n)
    }

    /// Says how many scores an earlier command has computed.
    pub(super) fn say_kept(&self) {
        self.scorer.say_kept();
    }

    /// Takes the best of every N samples of a prompt.
    ///
    /// # Errors
    /// As [`Scorer::rewards`].
    pub(super) fn choose(&mut self, prompts: &[Prompt], drawn: &[Vec<Kept>]) -> Result<Vec<Vec<Kept>>> {
        let rewards = self.scorer.rewards(self.reward.as_mut(), prompts, drawn)?;
        let best =
            |(kept, rewards): (&[Kept], &[f64])| reward::best(rewards).and_then(|at| kept.get(at).cloned());
        let of_prompt = |(drawn, rewards): (&Vec<Kept>, &Vec<f64>)| {
            drawn.chunks(self.n).zip(rewards.chunks(self.n)).filter_map(best).collect::<Vec<Kept>>()
        };
        Ok(drawn.iter().zip(&rewards).map(of_prompt).collect())
    }
}
