//! The merged model's logits beside those of base and adapters.

use std::path::Path;

use super::super::base::Base;
use crate::adapter::head;
use crate::data::{Example, Origin, PackedBatch};
use crate::error::{Error, Result};
use crate::model::config::{DeviceChoice, WeightDtype};
use crate::model::decoder::Decoder;
use crate::model::lora::Lora;
use crate::model::pass::Pass;
use crate::random::Stream;
use crate::weights::DType;

/// Largest difference of logits, relative to their largest size, that passes: f32 arithmetic in another order.
const BOUND_F32: f64 = 1e-4;
/// The same where weights are rounded to 16 bits on the way.
const BOUND_HALF: f64 = 0.1;

/// Compares, says what was found, and fails over the bound.
pub(super) fn run(
    base: &Base,
    parts: &[(&Lora, f64)],
    output: &Path,
    device: DeviceChoice,
    say: impl Fn(&str),
) -> Result<()> {
    let policy = policy(base, parts)?;
    let merged = Base::open(&output.to_string_lossy(), WeightDtype::Auto, device)?.decoder()?;
    let batch = probe(&policy);
    let rows: Vec<u32> = (0..batch.tokens.len() as u32).collect();
    let logits = |decoder: &Decoder| -> Result<Vec<Vec<f32>>> {
        Ok(decoder.logits(&batch, &rows, Pass::Policy)?.to_vec2::<f32>()?)
    };
    let (want, got) = (logits(&policy)?, logits(&merged)?);
    let found = Difference::between(&want, &got);
    let half = merged.head().weight().dtype() != Some(DType::F32);
    let bound = if half { BOUND_HALF } else { BOUND_F32 };
    say(&format!(
        "verified on {} positions: maximum |Δlogit| {:.3e} (largest logit {:.2}), mean {:.3e}, KL {:.3e} nats; bound {:.0e} relative",
        rows.len(),
        found.max,
        found.largest,
        found.mean,
        found.kl,
        bound
    ));
    if found.max <= bound * found.largest {
        return Ok(());
    }
    Err(Error::Weights(format!(
        "the merged model's logits are {:.3e} off, over the bound of {:.3e}; {} is left for inspection",
        found.max,
        bound * found.largest,
        output.display()
    )))
}

/// Base and adapters, each times its weight. The decoder adapts no head: the sum of head and adapter stands in for it.
fn policy(base: &Base, parts: &[(&Lora, f64)]) -> Result<Decoder> {
    let mut decoder = match head::adapted(&*base.source, &base.spec, parts)? {
        Some((source, spec)) => Decoder::load(spec, &source, base.dtype, &base.device)?,
        None => base.decoder()?,
    };
    let scaled =
        parts.iter().map(|(lora, weight)| head::without(lora, &base.spec, &base.device)?.scaled(*weight));
    decoder.trained = Some(Lora::stacked(&scaled.collect::<Result<Vec<_>>>()?, &base.device)?);
    Ok(decoder)
}

/// A few sequences of tokens from all over the vocabulary.
fn probe(decoder: &Decoder) -> PackedBatch {
    let spec = decoder.spec();
    let length = 24.min(spec.max_positions);
    let stream = Stream::new(0, "merge verification");
    let examples: Vec<Example> = (0..4u64)
        .map(|i| {
            let token = |j: usize| stream.child(i).below(j as u64, spec.vocab_size) as u32;
            let (prompt, completions) = ((0..length).map(token).collect(), Vec::new());
            Example { prompt, completions, label: 1.0, origin: Origin::new("probe", i as usize + 1) }
        })
        .collect();
    PackedBatch::new(&examples.iter().collect::<Vec<_>>())
}

/// How far two sets of logits are apart.
struct Difference {
    max: f64,
    mean: f64,
    kl: f64,
    largest: f64,
}

impl Difference {
    fn between(want: &[Vec<f32>], got: &[Vec<f32>]) -> Self {
        let mut found = Self { max: 0.0, mean: 0.0, kl: 0.0, largest: 0.0 };
        for (want, got) in want.iter().zip(got) {
            let mut sum = 0.0;
            for (w, g) in want.iter().zip(got) {
                let apart = f64::from((w - g).abs());
                // A NaN must not pass for a small difference.
                found.max = if apart > found.max || apart.is_nan() { apart } else { found.max };
                found.largest = found.largest.max(f64::from(w.abs()));
                sum += apart;
            }
            found.mean += sum / want.len().max(1) as f64;
            found.kl += divergence(want, got);
        }
        found.mean /= want.len().max(1) as f64;
        found.kl /= want.len().max(1) as f64;
        found
    }
}

/// KL(softmax(p) ‖ softmax(q)), nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let lse = |x: &[f32]| {
        let max = x.iter().fold(f64::NEG_INFINITY, |m, v| m.max(f64::from(*v)));
        max + x.iter().map(|v| (f64::from(*v) - max).exp()).sum::<f64>().ln()
    };
    let (p_lse, q_lse) = (lse(p), lse(q));
    p.iter()
        .zip(q)
        .map(|(p, q)| {
            let (p, q) = (f64::from(*p) - p_lse, f64::from(*q) - q_lse);
            p.exp() * (p - q)
        })
        .sum()
}
