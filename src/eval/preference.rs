//! Accuracy, margins, rewards and divergence over a set of records.

use std::cell::Cell;

use serde::Serialize;

use super::batches::Batches;
use super::calibration::{Bin, Calibration, Prediction};
use super::figures::Figures;
use super::finite::{advice, check_finite};
use super::outcomes::{Outcome, Outcomes};
use crate::data::{Dataset, PackedBatch};
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::objective::{Metrics, Needs, Objective, Records, Role, Scored, Weighed};
use crate::ranks::{ALONE, Ranks};
use crate::report::Activity;
use crate::trainable::Policy;

/// The result of an evaluation.
#[derive(Clone, Debug)]
pub struct Evaluation {
    metrics: Metrics,
    /// The objective's loss, in nats: the mean over records, or over tokens if texts are imitated.
    loss: Option<f64>,
    /// Whether there is an adapter; without one every reward is 0.
    adapted: bool,
    /// How well σ(Δ) of the rewards agrees with the labels.
    calibration: Option<Calibration>,
    /// Pairs one by one.
    outcomes: Outcomes,
}

/// An evaluation as `eval --json` prints it, with means over pairs. A value that the records or the objective do not
/// provide is null.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Number of records evaluated.
    pub pairs: u64,
    /// The objective's loss, in nats; of texts to imitate the mean over all tokens.
    pub loss: Option<f64>,
    /// Share of pairs whose chosen reward is strictly greater. Without an adapter every reward is 0, and this is the
    /// share by log-prob.
    pub accuracy: Option<f64>,
    /// Lower end of the Wilson 95 % interval of the accuracy.
    pub accuracy_low: Option<f64>,
    /// Upper end of that interval.
    pub accuracy_high: Option<f64>,
    /// Share of pairs whose chosen completion has the greater log-prob under the policy.
    pub logp_accuracy: Option<f64>,
    /// Chosen minus rejected reward.
    pub reward_margin: Option<f64>,
    /// Reward of the chosen completion; with DPO it is β·(log π_θ − log π_ref).
    pub reward_chosen: Option<f64>,
    /// Reward of the rejected completion.
    pub reward_rejected: Option<f64>,
    /// Log π_θ of the chosen completion, in nats.
    pub logp_chosen: Option<f64>,
    /// Log π_θ of the rejected completion, in nats.
    pub logp_rejected: Option<f64>,
    /// Estimate of KL(π_ref ‖ π_θ) per completion, in nats; see [`Metrics::kl`]. As an estimate it can be negative.
    pub kl: Option<f64>,
    /// Estimate of the same divergence per token.
    pub kl_per_token: Option<f64>,
    /// Mean squared difference of σ(reward difference) and label; 0.25 for a coin.
    pub brier: Option<f64>,
    /// Expected calibration error of the same; see [`Calibration::ece`].
    pub calibration_error: Option<f64>,
    /// The bins.
    pub calibration: Option<Vec<Bin>>,
    /// exp of the mean negative log-prob of the chosen tokens.
    pub perplexity_chosen: Option<f64>,
    /// exp of the mean negative log-prob of the rejected tokens.
    pub perplexity_rejected: Option<f64>,
}

impl Evaluation {
    /// Names of the values of [`Evaluation::values`].
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

    /// The sums from which the figures are computed.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Pairs one by one; none if the records are no pairs.
    pub fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    /// Share of comparisons in which the better completion has the greater reward. Without an adapter every reward is
    /// 0, and log-probs are compared instead.
    pub fn accuracy(&self) -> Option<f64> {
        if self.adapted { self.metrics.accuracy() } else { self.metrics.logp_accuracy() }
    }

    /// Returns the figures under TRL's names. Figures that the records or the objective do not provide are omitted.
    pub fn values(&self) -> Vec<(&'static str, f64)> {
        let found = self.summary();
        let values = [
            found.loss,
            found.reward_chosen,
            found.reward_rejected,
            found.reward_margin,
            found.accuracy,
            found.logp_chosen,
            found.logp_rejected,
            found.logp_accuracy,
            found.kl,
        ];
        Self::METRICS.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Returns the figures as `eval` prints them.
    pub fn summary(&self) -> Summary {
        let (metrics, chosen, rejected) = (&self.metrics, self.metrics.chosen(), self.metrics.rejected());
        let accuracy = self.accuracy();
        let interval = accuracy.map(|share| wilson(share, metrics.comparisons() as f64));
        Summary {
            pairs: metrics.groups(),
            loss: self.loss,
            accuracy,
            accuracy_low: interval.map(|(low, _)| low),
            accuracy_high: interval.map(|(_, high)| high),
            logp_accuracy: metrics.logp_accuracy(),
            reward_margin: metrics.margin(),
            reward_chosen: chosen.reward(),
            reward_rejected: rejected.reward(),
            logp_chosen: chosen.logp(),
            logp_rejected: rejected.logp(),
            kl: metrics.kl(),
            kl_per_token: metrics.kl_per_token(),
            brier: self.calibration.as_ref().map(|found| found.brier),
            calibration_error: self.calibration.as_ref().map(|found| found.ece),
            calibration: self.calibration.as_ref().map(|found| found.bins.clone()),
            perplexity_chosen: chosen.perplexity(),
            perplexity_rejected: rejected.perplexity(),
        }
    }
}

/// Scores every example, in order, in batches of `batch`, as an objective with these needs does. Of several ranks each scores
/// some of the batches. `reference` returns the reference log-probs of a batch's completions, or `None` where they are not
/// needed. On rank 0 `each` receives the completions of a batch and the index of its first example.
///
/// # Errors
/// Returns an error if an example does not fit the model, a log-prob is not finite, or a rank has failed.
pub fn score(
    ranks: &Ranks,
    both: (&Decoder, &Policy),
    examples: &Dataset,
    (batch, needs): (usize, Needs),
    reference: impl FnMut(&PackedBatch) -> Result<Option<Vec<f64>>>,
    mut each: impl FnMut(usize, &[Scored]) -> Result<()>,
) -> Result<()> {
    let each = |first, scored: &[Scored], _: &[f64]| each(first, scored);
    score_for(ranks, both, (examples, batch, needs), &advice(both.0), reference, each)
}

/// Like [`score`], and also scores what an objective needs: the mismatched completions follow the completions of a
/// batch. `each` also receives Σ_t (log π_θ − log Σ π_θ²) of each completion, if it is needed. The error for a log-prob that is
/// not finite ends in `advice`.
fn score_for(
    ranks: &Ranks,
    both: (&Decoder, &Policy),
    (examples, batch, needs): (&Dataset, usize, Needs),
    advice: &str,
    mut reference: impl FnMut(&PackedBatch) -> Result<Option<Vec<f64>>>,
    mut each: impl FnMut(usize, &[Scored], &[f64]) -> Result<()>,
) -> Result<()> {
    let cut = Batches::new(examples, batch, needs);
    let activity = Activity::new("scoring records", examples.len() as u64);
    // The batch that rank 0 has just scored itself; it reads those of other ranks to name their completions.
    let own = Cell::new(None);
    let work = |index| {
        let (examples, packed) = cut.batch(index)?;
        let figures = figures(both, &packed, needs, &mut reference)?;
        check_finite(&examples, &figures.scored(&packed)?, advice)?;
        own.set(Some((examples, packed)));
        Ok(figures)
    };
    ranks.in_turn(cut.count(), work, |index, figures: Figures| {
        let (examples, packed) = own.take().map_or_else(|| cut.batch(index), Ok)?;
        each(cut.first(index), &figures.scored(&packed)?, figures.aligned.as_deref().unwrap_or_default())?;
        activity.advance(examples.len() as u64);
        Ok(())
    })
}

/// Scores a batch and its mismatched completions, as an objective with these needs does.
///
/// # Errors
/// If an example does not fit the model.
pub(super) fn figures(
    (decoder, policy): (&Decoder, &Policy),
    packed: &PackedBatch,
    needs: Needs,
    mut reference: impl FnMut(&PackedBatch) -> Result<Option<Vec<f64>>>,
) -> Result<Figures> {
    type Passes = (Vec<f64>, Option<Vec<f64>>, Vec<f64>);
    let mut one = |packed: &PackedBatch| -> Result<Passes> {
        let reference = reference(packed)?;
        let (logps, aligned) = match &reference {
            _ if needs.alignment => decoder.aligned_logps(packed, policy, Pass::Policy)?,
            // Without a trained adapter both passes are the same function.
            Some(reference) if !policy.is_adapted() => (reference.clone(), Vec::new()),
            _ => (decoder.logps(packed, policy, Pass::Policy)?, Vec::new()),
        };
        Ok((logps, reference, aligned))
    };
    let (logps, ref_logps, aligned) = one(packed)?;
    let estimates = packed.mismatched.as_deref().map(&mut one).transpose()?;
    let (mismatched, ref_mismatched) = match estimates {
        Some((logps, reference, _)) => (Some(logps), reference),
        None => (None, None),
    };
    Ok(Figures { logps, ref_logps, mismatched, ref_mismatched, aligned: needs.alignment.then_some(aligned) })
}

/// Evaluates the policy on `examples`, in batches of `batch`.
///
/// # Errors
/// Same as [`score`]; also if there are no examples. The error for a log-prob that is not finite, [`Error::Record`], names no
/// remedy: in a training run the cause is the training.
pub fn evaluate(
    both: (&Decoder, &Policy),
    examples: &Dataset,
    batch: usize,
    objective: &Objective,
    reference: impl FnMut(&PackedBatch) -> Result<Option<Vec<f64>>>,
) -> Result<Evaluation> {
    Ok(tally(&ALONE, both, (examples, batch), (objective, ""), reference)?.finish(both.1))
}

/// As [`evaluate`], by several ranks; only rank 0 has the figures. For a command that reads an adapter: the errors name the
/// remedy.
///
/// # Errors
/// As [`evaluate`], or if a rank has failed.
pub fn evaluate_on(
    ranks: &Ranks,
    both: (&Decoder, &Policy),
    examples: (&Dataset, usize),
    objective: &Objective,
    reference: impl FnMut(&PackedBatch) -> Result<Option<Vec<f64>>>,
) -> Result<Option<Evaluation>> {
    let tally = tally(ranks, both, examples, (objective, &advice(both.0)), reference)?;
    Ok(ranks.is_first().then(|| tally.finish(both.1)))
}

fn tally<'a>(
    ranks: &Ranks,
    both: (&Decoder, &Policy),
    (examples, batch): (&Dataset, usize),
    (objective, advice): (&'a Objective, &str),
    reference: impl FnMut(&PackedBatch) -> Result<Option<Vec<f64>>>,
) -> Result<Tally<'a>> {
    if examples.is_empty() {
        return Err(Error::Data("there are no records to evaluate".into()));
    }
    let mut tally = Tally::new(objective);
    let cut = (examples, batch, objective.needs());
    score_for(ranks, both, cut, advice, reference, |first, scored, aligned| {
        let mut found = objective.weigh(scored)?;
        objective.weight(scored, aligned, &mut found);
        tally.add(first, scored, &found);
        Ok(())
    })?;
    Ok(tally)
}

/// An evaluation of the batches so far.
pub(super) struct Tally<'a> {
    objective: &'a Objective,
    metrics: Metrics,
    /// Of texts to imitate: the sum of the losses, each of which is a mean over the tokens of its batch, times those tokens; and all
    /// tokens.
    by_tokens: (f64, usize),
    predictions: Vec<Prediction>,
    outcomes: Outcomes,
}

impl<'a> Tally<'a> {
    /// Begins one.
    pub fn new(objective: &'a Objective) -> Self {
        Self {
            objective,
            metrics: Metrics::default(),
            by_tokens: (0.0, 0),
            predictions: Vec::new(),
            outcomes: Outcomes::default(),
        }
    }

    /// Adds a batch whose first record has the number `first`.
    pub fn add(&mut self, first: usize, scored: &[Scored], found: &Weighed) {
        self.objective.measure(scored, found, &mut self.metrics);
        if self.imitates() {
            let imitated = scored.iter().filter(|entry| matches!(entry.role, Role::Text | Role::Chosen));
            let tokens: usize = imitated.map(|entry| entry.tokens).sum();
            let mean = found.losses.iter().sum::<f64>() / found.losses.len().max(1) as f64;
            self.by_tokens.0 += mean * tokens as f64;
            self.by_tokens.1 += tokens;
        }
        self.outcomes.pairs.extend(Outcome::of(first, scored, self.objective));
        if self.objective.needs().rewards {
            self.predictions.extend(predicted(scored, self.objective));
        }
    }

    /// Whether the loss is a mean over the tokens of texts.
    fn imitates(&self) -> bool {
        self.objective.needs().records == Records::Texts
    }

    /// Returns the evaluation.
    pub fn finish(self, policy: &Policy) -> Evaluation {
        let calibration = Calibration::of(&self.predictions);
        let by_tokens = self.by_tokens.0 / self.by_tokens.1.max(1) as f64;
        let loss = self.metrics.loss().map(|loss| if self.imitates() { by_tokens } else { loss });
        Evaluation {
            metrics: self.metrics,
            loss,
            adapted: policy.is_adapted(),
            calibration,
            outcomes: self.outcomes,
        }
    }
}

/// What the rewards of the pairs of a batch predict.
fn predicted(scored: &[Scored], objective: &Objective) -> Vec<Prediction> {
    let pairs = scored.chunk_by(|a, b| a.group == b.group);
    let predicted = pairs.filter_map(|pair| {
        let [chosen @ Scored { role: Role::Chosen, .. }, rejected, ..] = pair else { return None };
        let margin = objective.reward(chosen)? - objective.reward(rejected)?;
        Some(Prediction::of_margin(margin, chosen.label))
    });
    predicted.collect()
}

/// The 95 % interval of a share observed in `n` trials (Wilson 1927).
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
    use crate::objective::Sft;

    #[test]
    fn the_loss_of_texts_is_the_mean_over_tokens_whatever_the_batches() {
        let objective = Objective::new(Sft {});
        let text = |group: usize, (logp, tokens): (f64, usize)| Scored {
            group,
            role: Role::Text,
            label: 1.0,
            margin: 0.0,
            logp,
            ref_logp: None,
            tokens,
        };
        let loss = |batches: &[&[(f64, usize)]]| {
            let mut tally = Tally::new(&objective);
            for batch in batches {
                let scored: Vec<Scored> =
                    batch.iter().enumerate().map(|(group, found)| text(group, *found)).collect();
                tally.add(0, &scored, &objective.weigh(&scored).unwrap());
            }
            tally.finish(&Policy::default()).summary().loss.unwrap()
        };
        let [a, b, c] = [(-3.0, 1), (-4.0, 2), (-10.0, 7)];
        for batches in [&[&[a, b, c][..]][..], &[&[a][..], &[b, c]], &[&[a, b][..], &[c]]] {
            assert!((loss(batches) - 1.7).abs() < 1e-12, "{}", loss(batches));
        }
    }

    #[test]
    fn wilson_is_that_of_the_tables() {
        // statsmodels.stats.proportion.proportion_confint(8, 10, method="wilson")
        let (low, high) = wilson(0.8, 10.0);
        assert!((low - 0.490_162).abs() < 1e-6 && (high - 0.943_318).abs() < 1e-6, "{low} {high}");
        assert_eq!(wilson(1.0, 5.0).1, 1.0);
        assert!(wilson(0.0, 5.0).1 > 0.4);
    }
}
