//! One optimizer step: forward passes of policy and reference over micro-batches, gradients, clipping, update.

use std::time::Instant;

use super::descent;
use super::optimizer::Optimizer;
use super::reference::ReferenceCache;
use super::summands::{Among, Summands};
use crate::data::{PackedBatch, Tree};
use crate::device::linked::Linked;
use crate::error::Result;
use crate::eval::figures::{Figures, exchanged};
use crate::model::decoder::{Decoder, Tape, Training};
use crate::model::noise::Noise;
use crate::model::pass::Pass;
use crate::objective::{Metrics, Objective, Records, Scored, Weighed};
use crate::random::Stream;
use crate::ranks::{Ranks, shares};
use crate::trainable::{Dropout, Policy};

/// The settings of a step.
#[derive(Clone, Copy)]
pub struct Settings<'a> {
    /// The loss.
    pub objective: &'a Objective,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// The norm to which gradients are clipped.
    pub clip_norm: Option<f64>,
    /// The value of `lora_dropout`.
    pub dropout: f64,
    /// The step's random stream.
    pub stream: Stream,
    /// Whether blocks are recomputed instead of keeping their activations.
    pub recompute: bool,
    /// Noise on the embeddings, with the step's stream.
    pub noise: Option<Noise>,
    /// The processes that share the micro-batches of the step.
    pub ranks: &'a Ranks,
    /// Their cards, if NCCL connects them.
    pub cards: Option<&'a Linked>,
}

/// The outcome of a step.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Losses, rewards and log-probs of the step's records.
    pub metrics: Metrics,
    /// The norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The number of packed tokens.
    pub tokens: usize,
    /// Total seconds.
    pub seconds: f64,
    /// Whether all parameters are finite after the step.
    pub finite: bool,
    /// Why the parameters were left unchanged: a loss or gradient that is not finite.
    pub skipped: Option<String>,
}

impl Outcome {
    /// Whether the parameters were updated.
    pub fn is_usable(&self) -> bool {
        self.skipped.is_none()
    }
}

/// Runs one step over `batches`. Their gradients are summed in order and divided by the total number of records. With several
/// ranks each computes some of them, and all have the same sum, metrics and parameters after it.
///
/// # Errors
/// If a batch does not fit the model, or a rank has failed.
pub fn run(
    decoder: &Decoder,
    policy: &mut Policy,
    optimizer: &mut Optimizer,
    reference: &mut ReferenceCache,
    batches: &[PackedBatch],
    settings: &Settings,
) -> Result<Outcome> {
    optimizer.begin_step(policy.trained.store_mut());
    let outcome = begun(decoder, policy, optimizer, reference, batches, settings);
    optimizer.end_step(policy.trained.store_mut());
    outcome
}

fn begun(
    decoder: &Decoder,
    policy: &mut Policy,
    optimizer: &mut Optimizer,
    reference: &mut ReferenceCache,
    batches: &[PackedBatch],
    settings: &Settings,
) -> Result<Outcome> {
    let start = Instant::now();
    descent::clear(decoder, policy)?;
    let mut metrics = Metrics::default();
    let mut skipped = None;
    let groups: usize = batches.iter().map(|batch| batch.kinds.len()).sum();
    let tokens_per_record = tokens_per_record(batches, settings.objective);
    let among = Among { ranks: settings.ranks, cards: settings.cards };
    let mut summands = Summands::new(decoder, policy, among, batches.len());
    let (mut own, mut is_broken) = (Vec::new(), false);
    for i in share(batches, settings.ranks) {
        let batch = &batches[i];
        let (figures, tape) = pass((decoder, policy), reference, (batch, i), settings)?;
        let (scored, found) = figures.judged(batch, settings.objective, tokens_per_record)?;
        is_broken |= broken(batch, &scored, &found).is_some();
        if !is_broken {
            let slopes = found.d_logps[..figures.logps.len()].iter();
            let weights: Vec<f64> = slopes.map(|slope| slope / groups as f64).collect();
            match decoder.is_on_device() {
                true => summands.add_on_card(decoder, policy, tape, batch, &weights)?,
                false => summands.add(policy, |policy, gradient| {
                    decoder.backward(tape, batch, policy, &weights, gradient)
                })?,
            }
        }
        own.push(figures);
    }
    let all = exchanged(settings.ranks, own)?;
    for (batch, figures) in batches.iter().zip(&all) {
        figures.learned(batch, |batch, logps| reference.learn(batch, logps));
        let (scored, found) = figures.judged(batch, settings.objective, tokens_per_record)?;
        settings.objective.measure(&scored, &found, &mut metrics);
        skipped = skipped.or_else(|| broken(batch, &scored, &found));
    }
    if skipped.is_none() {
        summands.finish(decoder, policy)?;
    }
    let grad_norm = descent::norm(decoder, policy)?;
    if skipped.is_none() && !grad_norm.is_finite() {
        let rows: Vec<String> = batches.iter().flat_map(|b| &b.origins).map(ToString::to_string).collect();
        let origin = summands.origin()?;
        skipped = Some(format!("the gradient's norm is {grad_norm}{origin}; its pairs: {}", rows.join(", ")));
    }
    let finite = match skipped {
        None => {
            let norms = (grad_norm, settings.clip_norm);
            descent::apply(decoder, policy, optimizer, norms, settings.learning_rate)?
        }
        Some(_) => true,
    };
    let tokens = batches.iter().map(|batch| batch.tokens.len()).sum();
    let seconds = start.elapsed().as_secs_f64();
    Ok(Outcome { metrics, grad_norm, tokens, seconds, finite, skipped })
}

/// For texts, returns the scored tokens per record over the whole step, so that the mean over tokens does not depend on
/// how the step is split.
fn tokens_per_record(batches: &[PackedBatch], objective: &Objective) -> Option<f64> {
    if objective.needs().records != Records::Texts {
        return None;
    }
    // In a pair, the text is the chosen completion, which comes first.
    let firsts = |batch: &PackedBatch| {
        let places = batch.trees.iter().scan(0, |next, tree: &Tree| {
            let first = *next;
            *next += tree.completions.len();
            Some(first)
        });
        places.filter_map(|first| batch.scored.get(first)).map(ExactSizeIterator::len).sum::<usize>()
    };
    let tokens: usize = batches.iter().map(firsts).sum();
    let records: usize = batches.iter().map(|batch| batch.kinds.len()).sum();
    Some(tokens.max(1) as f64 / records.max(1) as f64)
}

/// The indices of the micro-batches that this rank computes.
pub(super) fn share(batches: &[PackedBatch], ranks: &Ranks) -> std::ops::Range<usize> {
    let tokens: Vec<usize> = batches.iter().map(|batch| batch.tokens.len()).collect();
    shares(&tokens, ranks.size()).get(ranks.rank()).cloned().unwrap_or_default()
}

/// Runs the forward passes of policy and reference over the micro-batch of this index. Mismatched completions are scored
/// without a gradient.
fn pass(
    (decoder, policy): (&Decoder, &Policy),
    reference: &mut ReferenceCache,
    (batch, index): (&PackedBatch, usize),
    settings: &Settings,
) -> Result<(Figures, Tape)> {
    let needs = settings.objective.needs();
    let dropout = (settings.dropout > 0.0).then(|| Dropout {
        probability: settings.dropout as f32,
        stream: settings.stream.child(index as u64),
    });
    let noise = settings.noise.map(|noise| Noise { stream: noise.stream.child(index as u64), ..noise });
    let training = Training { dropout, recompute: settings.recompute, noise, align: needs.alignment };
    let mut of_reference =
        |batch: &PackedBatch| needs.reference.then(|| reference.logps(decoder, policy, batch)).transpose();
    let ref_logps = of_reference(batch)?;
    let mismatched = batch.mismatched.as_deref();
    let ref_mismatched = mismatched.map(&mut of_reference).transpose()?.flatten();
    let mismatched = mismatched.map(|batch| decoder.logps(batch, policy, Pass::Policy)).transpose()?;
    let (logps, tape) = decoder.forward(batch, policy, training)?;
    let aligned = tape.aligned().map(<[f64]>::to_vec);
    Ok((Figures { logps, ref_logps, mismatched, ref_mismatched, aligned }, tape))
}

/// Describes the records whose loss is not finite, if any.
fn broken(batch: &PackedBatch, scored: &[Scored], found: &Weighed) -> Option<String> {
    let groups = found.broken(scored);
    let broken: Vec<String> =
        groups.into_iter().filter_map(|group| batch.origins.get(group)).map(ToString::to_string).collect();
    (!broken.is_empty()).then(|| format!("the loss is not finite for {}", broken.join(", ")))
}
