//! `dpo-lora merge`: adapters folded into the base, and the result compared with what it should compute.

use super::base::{self, Base};
use super::say;
use crate::adapter::merge::{self, MergeOptions};
use crate::cli::MergeArgs;
use crate::data::{Example, Origin, PackedBatch};
use crate::error::{Error, Result};
use crate::model::config::WeightDtype;
use crate::model::decoder::Decoder;
use crate::model::lora::Lora;
use crate::model::pass::Pass;
use crate::random::Stream;

/// Largest difference of logits, relative to their largest size, that passes: f32 arithmetic in another order.
const BOUND_F32: f64 = 1e-4;
/// The same where weights are rounded to 16 bits on the way.
const BOUND_HALF: f64 = 0.1;

pub(super) fn run(args: &MergeArgs, quiet: bool) -> Result<()> {
    let say = |text: &str| {
        if !quiet {
            say(text)
        }
    };
    base::set_threads(args.runtime.threads)?;
    let base = Base::open(&args.base, args.runtime.dtype, args.runtime.device)?;
    let weights = weights(args)?;
    let adapters =
        args.adapter.iter().map(|path| base.adapter(path, args.force)).collect::<Result<Vec<_>>>()?;
    let parts: Vec<(&Lora, f64)> = adapters.iter().zip(weights.iter().copied()).collect();
    let options = MergeOptions { dtype: base.dtype, overwrite: args.force, ..MergeOptions::default() };
    let from = merge::Base { directory: &base.directory, source: &base.source, spec: &base.spec };
    let report = merge::merge(&from, &parts, &args.output, &options)?;
    say(&format!(
        "merged {} modules into {}; rounding moved a weight by {:.2e} at most ({:.2} % of the change's norm)",
        report.modules.len(),
        args.output.display(),
        report.rounding_max(),
        100.0 * report.rounding_share()
    ));
    if args.no_verify { Ok(()) } else { verify(&base, &adapters, &weights, args, say) }
}

/// One factor an adapter.
fn weights(args: &MergeArgs) -> Result<Vec<f64>> {
    match (args.weights.len(), args.adapter.len()) {
        (0, adapters) => Ok(vec![1.0; adapters]),
        (weights, adapters) if weights == adapters => Ok(args.weights.clone()),
        (weights, adapters) => Err(Error::Config(format!(
            "--weights has {weights} factors for {adapters} adapters; give one each"
        ))),
    }
}

/// Compares the merged model's logits with those of base and adapters.
fn verify(
    base: &Base,
    adapters: &[Lora],
    weights: &[f64],
    args: &MergeArgs,
    say: impl Fn(&str),
) -> Result<()> {
    let mut policy = base.decoder()?;
    let scaled = adapters.iter().zip(weights).map(|(lora, w)| lora.scaled(*w)).collect::<Result<Vec<_>>>()?;
    policy.trained = Some(Lora::stacked(&scaled, &base.device)?);
    let output = args.output.to_string_lossy();
    let merged = Base::open(&output, WeightDtype::Auto, args.runtime.device)?.decoder()?;
    let batch = probe(&policy);
    let rows: Vec<u32> = (0..batch.tokens.len() as u32).collect();
    let logits = |decoder: &Decoder| -> Result<Vec<Vec<f32>>> {
        Ok(decoder.logits(&batch, &rows, Pass::Policy)?.to_vec2::<f32>()?)
    };
    let (want, got) = (logits(&policy)?, logits(&merged)?);
    let found = Difference::between(&want, &got);
    let half = merged.head().weight().dtype() != Some(crate::weights::DType::F32);
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
        args.output.display()
    )))
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
