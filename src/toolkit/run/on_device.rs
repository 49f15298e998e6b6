//! A run on a device: its memory is planned before it is allocated.

use super::examples::Examples;
use crate::config::RunConfig;
use crate::data::{Dataset, PackedBatch};
use crate::device::measure::Rates;
use crate::device::profile;
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::engine::Plan;
use crate::train::config::Recompute;
use crate::trainable::Policy;

/// A device's memory that stays free: what other programs, and pieces that do not fit gaps, may take.
const SPARE: usize = 256 << 20;

/// What the largest step takes, and whether blocks are computed again for it.
pub(super) struct Fit {
    pub plan: Plan,
    pub recompute: bool,
    /// Bytes that are free on the device.
    pub free: usize,
}

impl Fit {
    /// The plan in words, kernel by kernel.
    pub(super) fn described(&self) -> String {
        let recompute = if self.recompute { "; blocks are recomputed" } else { "" };
        format!(
            "\nexpected memory of the GPU {}; {} are free{recompute}\npredicted for a step of the largest micro-batch on an \
             H100, reference pass included:\n{}",
            described(&self.plan),
            gb(self.free),
            profile::table(&self.plan.work, self.plan.seconds()).trim_end()
        )
    }
}

/// Plans the largest micro-batch, and decides on recomputation where the configuration leaves it open.
///
/// # Errors
/// If it does not fit; the message suggests what would.
pub(super) fn fit(config: &RunConfig, decoder: &Decoder, policy: &Policy, pairs: &Examples) -> Result<Fit> {
    let batch = largest(config, &pairs.train)?;
    let moments = config.train.check_device()?;
    let free = decoder.backend().map_or(0, |device| device.describe().memory.1);
    let planned = |recompute| decoder.plan(&batch, policy, recompute, moments, Rates::default());
    let fits = |plan: &Plan| plan.total() + SPARE <= free;
    let asked = config.train.gradient_checkpointing;
    if asked != Recompute::On {
        let plan = planned(false)?;
        if fits(&plan) {
            return Ok(Fit { plan, recompute: false, free });
        }
        if asked == Recompute::Off {
            let again = planned(true)?;
            let remedy = if fits(&again) {
                "Set train.gradient_checkpointing: auto".to_string()
            } else {
                smaller(&again, free)
            };
            return Err(refused(&plan, free, &remedy));
        }
    }
    let plan = planned(true)?;
    if fits(&plan) {
        Ok(Fit { plan, recompute: true, free })
    } else {
        Err(refused(&plan, free, &smaller(&plan, free)))
    }
}

fn refused(plan: &Plan, free: usize, remedy: &str) -> Error {
    Error::Config(format!(
        "the run does not fit on the GPU: {}; {} are free. {remedy}",
        described(plan),
        gb(free)
    ))
}

/// What helps where recomputation does not.
fn smaller(plan: &Plan, free: usize) -> String {
    if plan.weights + plan.optimizer > free {
        return "The weights alone are too large: use a base of 4 or 8 bits (a Q4_K_M or Q8_0 .gguf file), or the processor (model.device: cpu)"
            .into();
    }
    "Lower train.max_tokens_per_batch, train.per_device_train_batch_size or data.max_length, or use a base of 4 or 8 bits \
     (a Q4_K_M or Q8_0 .gguf file)"
        .into()
}

/// The plan in words.
fn described(plan: &Plan) -> String {
    format!(
        "{} in all: weights and adapter {}, activations {}, scratch {}, optimizer {}",
        gb(plan.total()),
        gb(plan.weights),
        gb(plan.activations),
        gb(plan.scratch),
        gb(plan.optimizer)
    )
}

fn gb(bytes: usize) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// The largest micro-batch that may come: the longest examples together.
fn largest(config: &RunConfig, examples: &Dataset) -> Result<PackedBatch> {
    let mut longest: Vec<(usize, usize)> =
        examples.entries().map(|entry| entry.packed()).enumerate().collect();
    longest.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let (mut chosen, mut tokens) = (Vec::new(), 0);
    for (index, size) in longest.into_iter().take(config.train.per_device_train_batch_size) {
        if !chosen.is_empty() && config.train.max_tokens_per_batch.is_some_and(|most| tokens + size > most) {
            break;
        }
        tokens += size;
        chosen.push(index);
    }
    Ok(PackedBatch::new(&examples.gather(&chosen)?.iter().collect::<Vec<_>>()))
}
