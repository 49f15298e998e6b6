//! One step of PPO: a rollout, and the updates that learn from it.

use std::time::Instant;

use super::grouped::finish;
use super::micro::{self, Item, by_completion, by_row, pack};
use super::{Rewarded, RolloutSource};
use crate::data::{Example, PackedBatch};
use crate::error::Result;
use crate::model::decoder::{Decoder, Read, Readout};
use crate::model::pass::Pass;
use crate::objective::on_policy::{AdaptiveKl, Drawn, Ppo, ProximalInputs, StepSize};
use crate::objective::{Figure, Metrics};
use crate::random::Stream;
use crate::train::descent;
use crate::train::optimizer::Optimizer;
use crate::train::step::{Outcome, Settings};
use crate::trainable::Policy;

/// Draws nothing itself: learns from a rollout in `num_ppo_epochs` passes of `num_mini_batches` updates each, with
/// micro-batches of `size` completions. Updates `coefficient`.
///
/// # Errors
/// If a completion does not fit the model, or the policy has no value head.
pub fn step(
    (decoder, policy, optimizer): (&Decoder, &mut Policy, &mut Optimizer),
    (drawn, source, size): (&Rewarded, &RolloutSource, usize),
    (ppo, coefficient): (&Ppo, &mut AdaptiveKl),
    settings: &Settings,
) -> Result<Outcome> {
    let start = Instant::now();
    let prompts = &drawn.generation.prompts;
    let tokens: Vec<Vec<u32>> = drawn.generation.completions.iter().map(|it| it.drawn()).collect();
    let both = drawn.generation.completions.iter().zip(&tokens);
    let items: Vec<Item> = both.map(|(it, tokens)| Item { prompt: it.prompt, tokens }).collect();
    let readout = Readout { logps: true, values: true, temperature: source.drawing.temperature };
    let read = |pass, readout| {
        micro::read(settings.ranks, (decoder, policy, pass), (prompts, &items), size, readout)
    };
    let of_policy = read(Pass::Policy, readout)?;
    let of_reference = read(Pass::Reference, Readout { values: false, ..readout })?;
    let rollout: Vec<Drawn> = of_policy
        .into_iter()
        .zip(of_reference)
        .zip(&drawn.rewards)
        .map(|(((logps, values), (ref_logps, _)), reward)| Drawn {
            logps,
            ref_logps,
            values,
            reward: *reward,
        })
        .collect();
    let learned = ppo.inputs(&rollout, coefficient.0);
    let mut metrics = Metrics::default();
    // Advantages are whitened over all completions.
    drawn.measure(source.drawing.generations, drawn.rewards.len(), &mut metrics);
    let divergence: f64 = rollout.iter().flat_map(|drawn| ppo.divergences(drawn)).sum();
    metrics.note(Figure::Kl, divergence, rollout.len() as u64);
    metrics.note(Figure::KlCoef, coefficient.0, 1);
    let mut last = None;
    'epochs: for epoch in 0..ppo.num_ppo_epochs {
        let order = shuffled(items.len(), settings.stream.named("ppo").child(epoch as u64));
        for (number, part) in mini_batches(&order, ppo.num_mini_batches).enumerate() {
            let stream = settings.stream.child((epoch * ppo.num_mini_batches + number) as u64);
            let own = Settings { stream, ..*settings };
            let update = Update { prompts, items: &items, learned: &learned, part, size, readout };
            optimizer.begin_step(policy.trained.store_mut());
            let outcome = update.run((decoder, policy, optimizer), ppo, &own, &mut metrics);
            optimizer.end_step(policy.trained.store_mut());
            let outcome = outcome?;
            let is_usable = outcome.is_usable() && outcome.finite;
            last = Some(outcome);
            if !is_usable {
                break 'epochs;
            }
        }
    }
    coefficient.update(ppo, divergence / rollout.len().max(1) as f64, rollout.len());
    let seconds = start.elapsed().as_secs_f64();
    Ok(Outcome { metrics, seconds, ..last.unwrap_or_else(without_updates) })
}

/// The outcome of a step that has nothing to learn from.
fn without_updates() -> Outcome {
    Outcome {
        metrics: Metrics::default(),
        grad_norm: 0.0,
        tokens: 0,
        seconds: 0.0,
        finite: true,
        skipped: Some("there are no completions".into()),
    }
}

/// Divides completions into so many parts. The last step of an epoch may have other numbers of completions than the others:
/// then parts differ by one completion, and none is empty.
fn mini_batches(order: &[usize], count: usize) -> impl Iterator<Item = &[usize]> {
    let count = count.min(order.len());
    (0..count).map(move |i| &order[order.len() * i / count..order.len() * (i + 1) / count])
}

/// A permutation (Fisher and Yates), in which completions of a prompt need not be adjacent.
fn shuffled(count: usize, stream: Stream) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        order.swap(i, stream.below(i as u64, i + 1));
    }
    order
}

/// What an update learns from.
struct Update<'a> {
    prompts: &'a [Example],
    items: &'a [Item<'a>],
    learned: &'a [ProximalInputs],
    /// The completions of the update.
    part: &'a [usize],
    size: usize,
    readout: Readout,
}

impl Update<'_> {
    fn run(
        &self,
        (decoder, policy, optimizer): (&Decoder, &mut Policy, &mut Optimizer),
        ppo: &Ppo,
        settings: &Settings,
        metrics: &mut Metrics,
    ) -> Result<Outcome> {
        let start = Instant::now();
        descent::clear(decoder, policy)?;
        let tokens = self.part.iter().map(|i| self.items[*i].tokens.len()).sum();
        let step =
            StepSize { completions: self.part.len(), micro_batches: 1, tokens, max_completion_length: 0 };
        let parts: Vec<&[usize]> = self.part.chunks(self.size.max(1)).collect();
        let batches: Vec<PackedBatch> = parts.iter().map(|part| self.packed(part)).collect();
        let [loss, clipped, policy_loss, value_loss] =
            micro::descend((decoder, policy), &batches, settings.ranks, |i, batch, policy| {
                let training = micro::training(settings, i);
                let (read, tape) = decoder.forward_rows(batch, policy, training, self.readout)?;
                let new = by_completion(batch, &read.logps).into_iter();
                let inputs: Vec<ProximalInputs> = parts[i]
                    .iter()
                    .zip(new.zip(by_completion(batch, &read.values)))
                    .map(|(i, (logps, values))| ProximalInputs { logps, values, ..self.learned[*i].clone() })
                    .collect();
                let found = ppo.weigh(&inputs, step);
                let slopes = Read { logps: by_row(&found.d_logps), values: by_row(&found.d_values) };
                let own = [found.loss, found.clipped as f64, found.policy_loss, found.value_loss];
                Ok((own, tape, slopes))
            })?;
        let mut own = Metrics::default();
        own.add_loss(loss, self.part.len() as u64);
        own.note(Figure::ClipRatio, clipped, tokens as u64);
        own.note(Figure::PolicyLoss, policy_loss, 1);
        own.note(Figure::ValueLoss, value_loss, 1);
        metrics.merge(&own);
        let packed = batches.iter().map(|batch| batch.tokens.len()).sum();
        finish(decoder, policy, optimizer, settings, (own, packed, start))
    }

    fn packed(&self, part: &[usize]) -> PackedBatch {
        let items: Vec<Item> = part.iter().map(|i| self.items[*i]).collect();
        pack(self.prompts, &items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mini_batches_divide_the_completions_of_a_step() {
        let order: Vec<usize> = (0..12).collect();
        let sizes = |completions: usize, count| -> Vec<usize> {
            mini_batches(&order[..completions], count).map(<[usize]>::len).collect()
        };
        assert_eq!(sizes(12, 4), [3; 4]);
        // The last step of an epoch: as many updates, as long as there are completions.
        assert_eq!((sizes(5, 4), sizes(2, 4), sizes(0, 4)), (vec![1, 1, 1, 2], vec![1, 1], vec![]));
        assert_eq!(mini_batches(&order, 5).flatten().copied().collect::<Vec<_>>(), order);
    }
}
