//! Steps on completions that the policy draws.

use super::Trainer;
use crate::data::Example;
use crate::error::{Error, Result};
use crate::objective::on_policy::{AdaptiveKl, Ppo};
use crate::objective::{Metrics, OnPolicy};
use crate::ops::profile;
use crate::random::Stream;
use crate::train::rollouts::{self, Held, Prompts, Rewarded, Update};
use crate::train::step::{Outcome, Settings};

impl Trainer {
    /// Runs one step of a loss of drawn completions.
    pub(super) fn drawn_step(&mut self, loss: OnPolicy, settings: &Settings) -> Result<Outcome> {
        match loss {
            OnPolicy::Proximal(ppo) => self.proximal_step(ppo, settings),
            OnPolicy::Grouped(..) | OnPolicy::LeaveOneOut(_) => self.grouped_step(loss, settings),
        }
    }

    fn grouped_step(&mut self, loss: OnPolicy, settings: &Settings) -> Result<Outcome> {
        let size = self.setup.config.per_device_train_batch_size;
        let mut metrics = Metrics::default();
        let mut held = match self.state.held.take() {
            Some(held) => held,
            None => {
                let (indices, drawn) = self.one_generation()?;
                let setup = &self.setup;
                let source = setup.rollouts.as_ref().ok_or_else(no_rewards)?;
                let group = source.drawing.generations;
                drawn.measure(group, group, &mut metrics);
                let both = (&setup.decoder, &setup.policy);
                Held::new(&setup.ranks, both, (&drawn, indices), loss, (source, size))?
            }
        };
        let prompts = self.setup.train.gather(&held.prompts)?;
        let (setup, optimizer) = (&mut self.setup, &mut self.optimizer);
        let drawing = &setup.rollouts.as_ref().ok_or_else(no_rewards)?.drawing;
        let update = Update {
            prompts: &prompts,
            held: &held,
            size,
            temperature: drawing.temperature,
            max_completion_length: drawing.max_completion_length,
        };
        let (decoder, policy) = (&setup.decoder, &mut setup.policy);
        let outcome = profile::step(|| {
            rollouts::grouped_step(decoder, policy, optimizer, (&update, loss), settings, metrics)
        })?;
        held.used += 1;
        self.state.held = (held.used < drawing.iterations).then_some(held);
        Ok(outcome)
    }

    fn proximal_step(&mut self, ppo: &Ppo, settings: &Settings) -> Result<Outcome> {
        let (_, drawn) = self.one_generation()?;
        let mut coefficient = self.state.kl_coef.unwrap_or(AdaptiveKl(ppo.kl_coef));
        let (setup, optimizer) = (&mut self.setup, &mut self.optimizer);
        let size = setup.config.per_device_train_batch_size;
        let source = setup.rollouts.as_ref().ok_or_else(no_rewards)?;
        let parts = (&setup.decoder, &mut setup.policy, optimizer);
        let learned = (ppo, &mut coefficient);
        let outcome =
            profile::step(|| rollouts::proximal_step(parts, (&drawn, source, size), learned, settings))?;
        self.state.kl_coef = Some(coefficient);
        Ok(outcome)
    }

    /// Draws completions of the next prompts, and returns the indices of the prompts, too.
    fn one_generation(&mut self) -> Result<(Vec<usize>, Rewarded)> {
        let indices = self.sampler.next_batch();
        let drawn = self.generations(std::slice::from_ref(&indices))?.pop().ok_or_else(no_rewards)?;
        Ok((indices, drawn))
    }

    /// Draws completions of lists of prompts.
    fn generations(&mut self, lists: &[Vec<usize>]) -> Result<Vec<Rewarded>> {
        let stream = Stream::new(self.setup.seed, "rollout").child(self.state.step);
        let train = &self.setup.train;
        let prompts = |(part, indices): (usize, &Vec<usize>)| -> Result<Prompts> {
            let texts = indices.iter().map(|index| train.text(*index)).collect::<Result<_>>()?;
            Ok(Prompts { examples: train.gather(indices)?, texts, stream: stream.child(part as u64) })
        };
        let lists = lists.iter().enumerate().map(prompts).collect::<Result<_>>()?;
        let setup = &mut self.setup;
        let source = setup.rollouts.as_mut().ok_or_else(no_rewards)?;
        let drawn = source.draw(&setup.ranks, (&setup.decoder, &setup.policy), lists);
        self.undrawn = drawn.is_err();
        drawn
    }

    /// Draws completions of the prompts of a step as pairs, and adds their figures to `metrics`.
    pub(super) fn drawn_pairs(
        &mut self,
        lists: &[Vec<usize>],
        metrics: &mut Metrics,
    ) -> Result<Vec<Vec<Example>>> {
        let drawn = self.generations(lists)?;
        let source = self.setup.rollouts.as_ref().ok_or_else(no_rewards)?;
        let generations = source.drawing.generations;
        drawn.iter().for_each(|drawn| drawn.measure(generations, generations, metrics));
        // Log-probs of the reference for completions that will not come again are not kept.
        self.setup.reference.forget();
        Ok(drawn.iter().map(|drawn| rollouts::pairs(drawn, generations)).collect())
    }
}

fn no_rewards() -> Error {
    Error::Train("the loss is one of drawn completions, and there is no reward".into())
}
