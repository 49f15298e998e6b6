//! One optimizer step: micro-batches through policy and reference, gradients, clipping, update.

use std::time::Instant;

use super::descent;
use super::optimizer::Optimizer;
use super::reference::ReferenceCache;
use crate::data::PackedBatch;
use crate::error::Result;
use crate::model::decoder::{Decoder, Training};
use crate::objective::{Metrics, Objective, Role, Scored};
use crate::random::Stream;
use crate::trainable::{Dropout, Policy};

/// What a step is computed with.
pub struct Settings<'a> {
    /// The loss.
    pub objective: &'a Objective,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// Gradients are clipped to this norm.
    pub clip_norm: Option<f64>,
    /// `lora_dropout`.
    pub dropout: f64,
    /// The step's stream of random numbers.
    pub stream: Stream,
    /// Compute blocks again instead of keeping activations.
    pub recompute: bool,
}

/// What a step did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Losses, rewards and log-probs of the step's records.
    pub metrics: Metrics,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Packed tokens.
    pub tokens: usize,
    /// Seconds, all told.
    pub seconds: f64,
    /// Whether all parameters are finite after it.
    pub finite: bool,
    /// Why the parameters were left as they are: a loss or gradient that is no number.
    pub skipped: Option<String>,
}

impl Outcome {
    /// Whether the parameters moved.
    pub fn is_usable(&self) -> bool {
        self.skipped.is_none()
    }
}

/// Runs one step over `batches`; their gradients are summed and divided by the number of their records.
///
/// # Errors
/// If a batch does not fit the model.
pub fn run(
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
    let groups: usize = batches.iter().map(groups).sum();
    for (i, batch) in batches.iter().enumerate() {
        let dropout = (settings.dropout > 0.0).then(|| Dropout {
            probability: settings.dropout as f32,
            stream: settings.stream.child(i as u64),
        });
        let training = Training { dropout, recompute: settings.recompute };
        let ref_logps = match settings.objective.needs().reference {
            true => Some(reference.logps(decoder, policy, batch)?),
            false => None,
        };
        let (logps, tape) = decoder.forward(batch, policy, training)?;
        let scored = batch.scored_completions(&logps, ref_logps.as_deref())?;
        let (weights, broken) = weigh(batch, &scored, settings.objective, groups, &mut metrics)?;
        skipped = skipped.or(broken);
        if skipped.is_none() {
            descent::add(decoder, policy, tape, batch, &weights)?;
        }
    }
    let grad_norm = descent::norm(decoder, policy)?;
    if skipped.is_none() && !grad_norm.is_finite() {
        let rows: Vec<String> = batches.iter().flat_map(|b| &b.origins).map(ToString::to_string).collect();
        skipped = Some(format!("the gradient's norm is {grad_norm}; its pairs: {}", rows.join(", ")));
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

/// How many records of a batch are trained on.
fn groups(batch: &PackedBatch) -> usize {
    batch.kinds.iter().filter(|kind| kind.role(0) != Role::Mismatched).count()
}

/// ∂ loss / ∂ log-prob of each completion, over `groups` records; and the records whose loss is not finite, if any.
fn weigh(
    batch: &PackedBatch,
    scored: &[Scored],
    objective: &Objective,
    groups: usize,
    metrics: &mut Metrics,
) -> Result<(Vec<f64>, Option<String>)> {
    let found = objective.weigh(scored)?;
    objective.measure(scored, &found, metrics);
    let broken: Vec<String> =
        found.broken(scored).into_iter().map(|group| batch.origins[group].to_string()).collect();
    let broken =
        (!broken.is_empty()).then(|| format!("the loss is no finite number for {}", broken.join(", ")));
    Ok((found.d_logps.iter().map(|slope| slope / groups as f64).collect(), broken))
}
