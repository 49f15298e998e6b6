//! Preference accuracy, margins and rewards over a set of pairs.

use serde::Serialize;

use crate::data::{Example, PackedBatch};
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::objective::{Metrics, ObjectiveConfig, PairLogps};
use crate::trainable::Policy;

/// What an evaluation found; means over pairs.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Pairs evaluated.
    pub pairs: u64,
    /// The objective's loss, nats.
    pub loss: f64,
    /// Share of pairs whose chosen reward is strictly greater. Without an adapter, where every reward is 0: the share
    /// by log-prob.
    pub accuracy: f64,
    /// Lower end of the accuracy's Wilson 95 % interval.
    pub accuracy_low: f64,
    /// Upper end.
    pub accuracy_high: f64,
    /// Share of pairs whose chosen completion has the greater log-prob under the policy.
    pub logp_accuracy: f64,
    /// Chosen minus rejected reward.
    pub reward_margin: f64,
    /// β·(log π_θ − log π_ref) of the chosen completion.
    pub reward_chosen: f64,
    /// The same of the rejected one.
    pub reward_rejected: f64,
    /// Log π_θ of the chosen completion, nats.
    pub logp_chosen: f64,
    /// The same of the rejected one.
    pub logp_rejected: f64,
    /// Estimate of KL(π_ref ‖ π_θ) over a completion, nats: the mean of log π_ref − log π_θ over both completions of all
    /// pairs (k1 of Schulman 2020, "Approximating KL divergence"). Unbiased where the completions are samples of the
    /// reference; being an estimate, it may lie below 0.
    pub kl: f64,
    /// The same over a token.
    pub kl_per_token: f64,
    /// exp of the mean negative log-prob of a chosen token.
    pub perplexity_chosen: f64,
    /// The same of a rejected token.
    pub perplexity_rejected: f64,
}

impl Evaluation {
    /// Names of [`Evaluation::metrics`].
    pub const METRICS: [&str; 9] = [
        "eval_loss",
        "eval_rewards/chosen",
        "eval_rewards/rejected",
        "eval_rewards/margins",
        "eval_rewards/accuracies",
        "eval_logps/chosen",
        "eval_logps/rejected",
        "eval_logps/accuracies",
        "eval_kl",
    ];

    /// The figures under TRL's names.
    pub fn metrics(&self) -> [(&'static str, f64); 9] {
        let values = [
            self.loss,
            self.reward_chosen,
            self.reward_rejected,
            self.reward_margin,
            self.accuracy,
            self.logp_chosen,
            self.logp_rejected,
            self.logp_accuracy,
            self.kl,
        ];
        std::array::from_fn(|i| (Self::METRICS[i], values[i]))
    }
}

/// Log-probs of one pair, and how many tokens they sum over.
#[derive(Clone, Copy, Debug)]
pub struct Scored {
    /// Policy and reference.
    pub logps: PairLogps,
    /// Scored tokens of the chosen completion.
    pub chosen_tokens: usize,
    /// Scored tokens of the rejected completion.
    pub rejected_tokens: usize,
}

/// Log-probs of every pair, in order, in batches of `batch` pairs. `reference` gives the reference log-probs of a
/// batch's completions; `each` sees every pair with its index.
///
/// # Errors
/// If an example is no pair, or does not fit the model.
pub fn score(
    decoder: &Decoder,
    policy: &Policy,
    examples: &[Example],
    batch: usize,
    mut reference: impl FnMut(&PackedBatch) -> Result<Vec<f64>>,
    mut each: impl FnMut(usize, Scored) -> Result<()>,
) -> Result<()> {
    for (first, examples) in examples.chunks(batch.max(1)).enumerate() {
        let packed = PackedBatch::new(&examples.iter().collect::<Vec<_>>());
        let reference = reference(&packed)?;
        // Without a trained adapter both passes are the same function.
        let logps = match policy.is_adapted() {
            true => decoder.logps(&packed, policy, Pass::Policy)?,
            false => reference.clone(),
        };
        for (i, example) in examples.iter().enumerate() {
            let logps =
                pair_logps(&logps, &reference, i).ok_or_else(|| example.origin.error("is no pair"))?;
            check_finite(&logps, example)?;
            let tokens = |side| example.scored(side);
            each(
                first * batch.max(1) + i,
                Scored { logps, chosen_tokens: tokens(0), rejected_tokens: tokens(1) },
            )?;
        }
    }
    Ok(())
}

/// Refuses log-probs that are no numbers: every figure made of them would be none.
fn check_finite(logps: &PairLogps, example: &Example) -> Result<()> {
    let PairLogps { chosen, rejected, ref_chosen, ref_rejected } = *logps;
    if [chosen, rejected, ref_chosen, ref_rejected].iter().all(|logp| logp.is_finite()) {
        return Ok(());
    }
    let why = format!(
        "has log-probs that are no numbers (chosen {chosen}, rejected {rejected}); an activation overflowed: compute with \
         --dtype f32, or the adapter is damaged"
    );
    Err(example.origin.error(&why))
}

/// Pair `i` of a batch's completions, which stand chosen, rejected, chosen, ...
pub fn pair_logps(policy: &[f64], reference: &[f64], i: usize) -> Option<PairLogps> {
    Some(PairLogps {
        chosen: *policy.get(2 * i)?,
        rejected: *policy.get(2 * i + 1)?,
        ref_chosen: *reference.get(2 * i)?,
        ref_rejected: *reference.get(2 * i + 1)?,
    })
}

/// Evaluates the policy on `examples`.
///
/// # Errors
/// As [`score`]; or if there are no examples.
pub fn evaluate(
    decoder: &Decoder,
    policy: &Policy,
    examples: &[Example],
    batch: usize,
    objective: &ObjectiveConfig,
    reference: impl FnMut(&PackedBatch) -> Result<Vec<f64>>,
) -> Result<Evaluation> {
    if examples.is_empty() {
        return Err(Error::Data("there are no pairs to evaluate".into()));
    }
    let mut metrics = Metrics::default();
    let mut by_logp = 0u64;
    let (mut tokens, mut logps, mut lost) = ([0u64; 2], [0.0f64; 2], 0.0);
    score(decoder, policy, examples, batch, reference, |i, scored| {
        let loss = objective.pair(&scored.logps, f64::from(examples[i].label));
        metrics.add(&scored.logps, &loss);
        by_logp += u64::from(scored.logps.chosen > scored.logps.rejected);
        tokens[0] += scored.chosen_tokens as u64;
        tokens[1] += scored.rejected_tokens as u64;
        logps[0] += scored.logps.chosen;
        logps[1] += scored.logps.rejected;
        let PairLogps { chosen, rejected, ref_chosen, ref_rejected } = scored.logps;
        lost += (ref_chosen - chosen) + (ref_rejected - rejected);
        Ok(())
    })?;
    let mean = |name: &str| metrics.means().iter().find(|(n, _)| *n == name).map_or(0.0, |(_, v)| *v);
    let pairs = metrics.pairs();
    let logp_accuracy = by_logp as f64 / pairs as f64;
    let accuracy = if policy.is_adapted() { metrics.accuracy() } else { logp_accuracy };
    let (accuracy_low, accuracy_high) = wilson(accuracy, pairs as f64);
    let perplexity = |side: usize| (-logps[side] / tokens[side] as f64).exp();
    Ok(Evaluation {
        pairs,
        loss: metrics.loss(),
        accuracy,
        accuracy_low,
        accuracy_high,
        logp_accuracy,
        reward_margin: mean("rewards/margins"),
        reward_chosen: mean("rewards/chosen"),
        reward_rejected: mean("rewards/rejected"),
        logp_chosen: mean("logps/chosen"),
        logp_rejected: mean("logps/rejected"),
        kl: lost / (2 * pairs) as f64,
        kl_per_token: lost / (tokens[0] + tokens[1]).max(1) as f64,
        perplexity_chosen: perplexity(0),
        perplexity_rejected: perplexity(1),
    })
}

/// Share of pairs whose chosen completion has the greater log-prob under the reference: what a policy starts from.
///
/// # Errors
/// As [`evaluate`].
pub fn reference_accuracy(
    examples: &[Example],
    batch: usize,
    mut reference: impl FnMut(&PackedBatch) -> Result<Vec<f64>>,
) -> Result<f64> {
    let mut correct = 0;
    for examples in examples.chunks(batch.max(1)) {
        let logps = reference(&PackedBatch::new(&examples.iter().collect::<Vec<_>>()))?;
        for (i, example) in examples.iter().enumerate() {
            let pair = pair_logps(&logps, &logps, i).ok_or_else(|| example.origin.error("is no pair"))?;
            correct += usize::from(pair.ref_chosen > pair.ref_rejected);
        }
    }
    Ok(correct as f64 / examples.len().max(1) as f64)
}

/// The 95 % interval of a share found in `n` trials (Wilson 1927).
pub fn wilson(share: f64, n: f64) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    let centre = share + Z * Z / (2.0 * n);
    let spread = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let norm = 1.0 + Z * Z / n;
    (((centre - spread) / norm).max(0.0), ((centre + spread) / norm).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_is_that_of_the_tables() {
        // statsmodels.stats.proportion.proportion_confint(8, 10, method="wilson")
        let (low, high) = wilson(0.8, 10.0);
        assert!((low - 0.490_162).abs() < 1e-6 && (high - 0.943_318).abs() < 1e-6, "{low} {high}");
        assert_eq!(wilson(1.0, 5.0).1, 1.0);
        assert!(wilson(0.0, 5.0).1 > 0.4);
    }
}
