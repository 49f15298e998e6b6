//! One update of GRPO and its relatives, or of RLOO.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::micro::{self, Item, by_completion, by_row, pack};
use super::{Rewarded, RolloutSource};
use crate::data::{Example, PackedBatch};
use crate::error::{Error, Result};
use crate::model::decoder::{Decoder, Read, Readout};
use crate::model::pass::Pass;
use crate::objective::on_policy::{GroupRelative, Rloo, Sampled, StepSize, TokensWeighed, advantages};
use crate::objective::{Figure, Metrics, OnPolicy};
use crate::ranks::Ranks;
use crate::rollout::Generation;
use crate::train::descent;
use crate::train::optimizer::Optimizer;
use crate::train::step::{Outcome, Settings};
use crate::trainable::Policy;

/// Completions that several updates learn from, as a checkpoint keeps them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Indices of the prompts among the training records.
    pub prompts: Vec<usize>,
    /// The completions, group after group.
    pub completions: Vec<HeldCompletion>,
    /// Updates made with them.
    pub used: usize,
}

/// A completion that several updates learn from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldCompletion {
    /// Index of its prompt.
    pub prompt: usize,
    /// Its tokens, with the end token.
    pub tokens: Vec<u32>,
    /// Its advantage.
    pub advantage: f64,
    /// Whether it counts.
    pub counts: bool,
    /// Bits of the log-probs of its tokens before the first update (JSON would round them).
    pub old_logps: Vec<u32>,
    /// The same of the reference; `None` without one.
    pub ref_logps: Option<Vec<u32>>,
}

impl Held {
    /// Returns what is learned from a generation.
    ///
    /// # Errors
    /// If a completion does not fit the model, the loss is not one of groups, or a rank has failed.
    pub fn new(
        ranks: &Ranks,
        (decoder, policy): (&Decoder, &Policy),
        (drawn, indices): (&Rewarded, Vec<usize>),
        loss: OnPolicy,
        (source, size): (&RolloutSource, usize),
    ) -> Result<Self> {
        let prompts = &drawn.generation.prompts;
        let tokens: Vec<Vec<u32>> = drawn.generation.completions.iter().map(|it| it.drawn()).collect();
        let items = items(drawn, &tokens);
        let readout = Readout { logps: true, values: false, temperature: source.drawing.temperature };
        let read = |pass| micro::read(ranks, (decoder, policy, pass), (prompts, &items), size, readout);
        let old = read(Pass::Policy)?;
        let (beta, masks) = match loss {
            OnPolicy::Grouped(GroupRelative { beta, .. }, _) | OnPolicy::LeaveOneOut(Rloo { beta, .. }) => {
                (*beta, masks_truncated(loss))
            }
            OnPolicy::Proximal(_) => return Err(Error::Train("PPO does not learn from groups".into())),
        };
        let reference = if beta == 0.0 { None } else { Some(read(Pass::Reference)?) };
        let group = source.drawing.generations;
        let advantages = match loss {
            OnPolicy::Grouped(loss, _) => {
                advantages::group_relative(&drawn.rewards, group, loss.scale_rewards)
            }
            OnPolicy::LeaveOneOut(loss) => {
                let sum = |logps: &[f64]| logps.iter().sum::<f64>();
                let divergence = |i: usize| {
                    reference.as_ref().map_or(0.0, |reference| sum(&old[i].0) - sum(&reference[i].0))
                };
                let rewards = drawn.rewards.iter().enumerate();
                let rewards: Vec<f64> = rewards.map(|(i, r)| loss.penalised(*r, divergence(i))).collect();
                advantages::leave_one_out(&rewards, group, loss.normalize_advantages)
            }
            OnPolicy::Proximal(_) => Vec::new(),
        };
        let bits = |logps: &[f64]| logps.iter().map(|x| (*x as f32).to_bits()).collect::<Vec<_>>();
        let completions = drawn.generation.completions.iter().zip(tokens).enumerate();
        let completions = completions.map(|(i, (completion, tokens))| HeldCompletion {
            prompt: completion.prompt,
            tokens,
            advantage: advantages[i],
            counts: !masks || Generation::is_whole(completion),
            old_logps: bits(&old[i].0),
            ref_logps: reference.as_ref().map(|reference| bits(&reference[i].0)),
        });
        Ok(Self { prompts: indices, completions: completions.collect(), used: 0 })
    }
}

/// Whether a loss leaves out completions without an end token.
pub fn masks_truncated(loss: OnPolicy) -> bool {
    match loss {
        OnPolicy::Grouped(loss, _) => loss.mask_truncated_completions,
        OnPolicy::LeaveOneOut(loss) => loss.mask_truncated_completions,
        OnPolicy::Proximal(_) => false,
    }
}

fn items<'a>(drawn: &Rewarded, tokens: &'a [Vec<u32>]) -> Vec<Item<'a>> {
    let both = drawn.generation.completions.iter().zip(tokens);
    both.map(|(completion, tokens)| Item { prompt: completion.prompt, tokens }).collect()
}

/// What an update learns from.
pub struct Update<'a> {
    /// The prompts.
    pub prompts: &'a [Example],
    /// The completions.
    pub held: &'a Held,
    /// Completions of a micro-batch.
    pub size: usize,
    /// The softmax temperature.
    pub temperature: f64,
    /// The longest that a completion may be.
    pub max_completion_length: usize,
}

/// Runs one update. `metrics` has the figures of the generation, if it is new.
///
/// # Errors
/// If a completion does not fit the model.
pub fn step(
    decoder: &Decoder,
    policy: &mut Policy,
    optimizer: &mut Optimizer,
    (update, loss): (&Update, OnPolicy),
    settings: &Settings,
    metrics: Metrics,
) -> Result<Outcome> {
    optimizer.begin_step(policy.trained.store_mut());
    let outcome = begun(decoder, policy, optimizer, (update, loss), settings, metrics);
    optimizer.end_step(policy.trained.store_mut());
    outcome
}

fn begun(
    decoder: &Decoder,
    policy: &mut Policy,
    optimizer: &mut Optimizer,
    (update, loss): (&Update, OnPolicy),
    settings: &Settings,
    mut metrics: Metrics,
) -> Result<Outcome> {
    let start = Instant::now();
    descent::clear(decoder, policy)?;
    let all = &update.held.completions;
    let counted = all.iter().filter(|held| held.counts);
    let step = StepSize {
        completions: all.len(),
        micro_batches: all.len().div_ceil(update.size.max(1)),
        tokens: counted.map(|held| held.tokens.len()).sum(),
        max_completion_length: update.max_completion_length,
    };
    let readout = Readout { logps: true, values: false, temperature: update.temperature };
    let parts: Vec<&[HeldCompletion]> = all.chunks(update.size.max(1)).collect();
    let batches: Vec<PackedBatch> = parts.iter().map(|part| packed_of(update.prompts, part)).collect();
    let [loss_sum, kl, clipped, clippable] =
        micro::descend((decoder, policy), &batches, settings.ranks, |i, batch, policy| {
            let training = micro::training(settings, i);
            let (read, tape) = decoder.forward_rows(batch, policy, training, readout)?;
            let found = weigh(loss, &sampled(parts[i], by_completion(batch, &read.logps)), step);
            let slopes = Read { logps: by_row(&found.d_logps), values: Vec::new() };
            let own = [found.loss, found.kl, found.clipped as f64, found.clippable as f64];
            Ok((own, tape, slopes))
        })?;
    metrics.add_loss(loss_sum, all.len() as u64);
    metrics.note(Figure::ClipRatio, clipped, clippable as u64);
    if all.iter().any(|held| held.ref_logps.is_some()) {
        metrics.note(Figure::Kl, kl, step.tokens as u64);
    }
    let packed = batches.iter().map(|batch| batch.tokens.len()).sum();
    finish(decoder, policy, optimizer, settings, (metrics, packed, start))
}

fn packed_of(prompts: &[Example], part: &[HeldCompletion]) -> PackedBatch {
    let items: Vec<Item> =
        part.iter().map(|held| Item { prompt: held.prompt, tokens: &held.tokens }).collect();
    pack(prompts, &items)
}

/// Clips the gradient and moves the adapter, unless the gradient is not finite.
///
/// # Errors
/// If the optimizer's state does not belong to the adapter.
pub(super) fn finish(
    decoder: &Decoder,
    policy: &mut Policy,
    optimizer: &mut Optimizer,
    settings: &Settings,
    (metrics, tokens, start): (Metrics, usize, Instant),
) -> Result<Outcome> {
    let grad_norm = descent::norm(decoder, policy)?;
    let loss = metrics.loss().unwrap_or(f64::NAN);
    let skipped = (!(grad_norm.is_finite() && loss.is_finite()))
        .then(|| format!("the loss is {loss} and the gradient's norm {grad_norm}"));
    let finite = match skipped {
        None => {
            let norms = (grad_norm, settings.clip_norm);
            descent::apply(decoder, policy, optimizer, norms, settings.learning_rate)?
        }
        Some(_) => true,
    };
    let seconds = start.elapsed().as_secs_f64();
    Ok(Outcome { metrics, grad_norm, tokens, seconds, finite, skipped })
}

fn sampled(part: &[HeldCompletion], logps: Vec<Vec<f64>>) -> Vec<Sampled> {
    let numbers = |bits: &[u32]| bits.iter().map(|x| f64::from(f32::from_bits(*x))).collect::<Vec<_>>();
    let one = |(held, logps): (&HeldCompletion, Vec<f64>)| Sampled {
        logps,
        old_logps: numbers(&held.old_logps),
        ref_logps: held.ref_logps.as_deref().map(numbers),
        advantage: held.advantage,
        counts: held.counts,
    };
    part.iter().zip(logps).map(one).collect()
}

/// The share of an update's loss that a micro-batch has.
fn weigh(loss: OnPolicy, batch: &[Sampled], step: StepSize) -> TokensWeighed {
    match loss {
        OnPolicy::Grouped(loss, normalisation) => loss.weigh(normalisation, batch, step),
        OnPolicy::LeaveOneOut(loss) => loss.weigh(batch, step),
        // `Held::new` has refused it.
        OnPolicy::Proximal(_) => TokensWeighed::default(),
    }
}
