//! One optimizer step: micro-batches through policy and reference, gradients, clipping, update.

use std::time::Instant;

use super::descent;
use super::optimizer::Optimizer;
use super::reference::ReferenceCache;
use crate::data::PackedBatch;
use crate::error::{Error, Result};
use crate::eval::preference::pair_logps;
use crate::model::decoder::{Decoder, Training};
use crate::objective::{Metrics, ObjectiveConfig};
use crate::random::Stream;
use crate::trainable::{Dropout, Policy};

/// What a step is computed with.
pub struct Settings<'a> {
    /// The loss.
    pub objective: &'a ObjectiveConfig,
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
    /// Losses, rewards and log-probs of the step's pairs.
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

/// Runs one step over `batches`; their gradients are summed and divided by all their pairs.
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
    let pairs: usize = batches.iter().map(|batch| batch.trees.len()).sum();
    for (i, batch) in batches.iter().enumerate() {
        let dropout = (settings.dropout > 0.0).then(|| Dropout {
            probability: settings.dropout as f32,
            stream: settings.stream.child(i as u64),
        });
        let training = Training { dropout, recompute: settings.recompute };
        let ref_logps = reference.logps(decoder, policy, batch)?;
        let (logps, tape) = decoder.forward(batch, policy, training)?;
        let (weights, broken) = weigh(batch, &logps, &ref_logps, settings.objective, pairs, &mut metrics)?;
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

/// ∂ loss / ∂ log-prob of each completion, over `pairs` pairs; and the pairs whose loss is no number, if any.
fn weigh(
    batch: &PackedBatch,
    logps: &[f64],
    reference: &[f64],
    objective: &ObjectiveConfig,
    pairs: usize,
    metrics: &mut Metrics,
) -> Result<(Vec<f64>, Option<String>)> {
    let mut weights = Vec::with_capacity(logps.len());
    let mut broken = Vec::new();
    for (i, (label, origin)) in batch.labels.iter().zip(&batch.origins).enumerate() {
        let pair = pair_logps(logps, reference, i)
            .filter(|_| batch.trees[i].completions.len() == 2)
            .ok_or_else(|| Error::Train(format!("{origin} is no pair of completions")))?;
        let loss = objective.pair(&pair, f64::from(*label));
        if !(loss.loss.is_finite() && loss.d_chosen.is_finite() && loss.d_rejected.is_finite()) {
            broken.push(origin.to_string());
        }
        metrics.add(&pair, &loss);
        weights.extend([loss.d_chosen / pairs as f64, loss.d_rejected / pairs as f64]);
    }
    let broken =
        (!broken.is_empty()).then(|| format!("the loss is no finite number for {}", broken.join(", ")));
    Ok((weights, broken))
}
