//! The evaluations of a run: before its first step, and those that decide which adapter is the best; and what they say of
//! single pairs.

use super::{Setup, Trainer};
use crate::data::PackedBatch;
use crate::error::{Error, Result};
use crate::eval::finite;
use crate::eval::outcomes::Outcome;
use crate::eval::preference::{self, Evaluation};
use crate::eval::together::{self, KnownReference};
use crate::model::decoder::Decoder;
use crate::ranks::{ALONE, Ranks};
use crate::report::{Event, HeldOut, LengthGroup, Reporter, WrongPair};
use crate::train::best::Best;
use crate::train::reference::ReferenceCache;
use crate::trainable::Policy;

/// The cache of the reference's log-probs, if the objective needs them, and what computes them.
struct Known<'a> {
    both: (&'a Decoder, &'a Policy),
    cache: Option<&'a mut ReferenceCache>,
}

impl KnownReference for Known<'_> {
    fn logps(&mut self, batch: &PackedBatch) -> Result<Option<Vec<f64>>> {
        let (decoder, policy) = self.both;
        self.cache.as_mut().map(|cache| cache.logps(decoder, policy, batch)).transpose()
    }

    fn learn(&mut self, batch: &PackedBatch, logps: &[f64]) {
        if let Some(cache) = &mut self.cache {
            cache.learn(batch, logps);
        }
    }
}

/// Pairs of which the report shows the texts, and characters of a text.
const MOST_WRONG: usize = 10;
const MOST_CHARACTERS: usize = 2000;

/// A text without what is beyond [`MOST_CHARACTERS`].
fn cut(text: String) -> String {
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

impl Trainer {
    /// Evaluates the current policy on the held-out records, by this process alone. Returns `None` if there are none.
    ///
    /// # Errors
    /// If a record does not fit the model.
    pub fn evaluate(&mut self) -> Result<Option<Evaluation>> {
        self.evaluate_on(&ALONE)
    }

    /// As [`Trainer::evaluate`], by all of `ranks`.
    fn evaluate_on(&mut self, ranks: &Ranks) -> Result<Option<Evaluation>> {
        let step = self.state.step;
        if let Some((_, found)) = self.evaluated.as_ref().filter(|(at, _)| *at == step) {
            return Ok(Some(found.clone()));
        }
        let Setup { decoder, policy, eval, config, objective, reference, .. } = &mut self.setup;
        if eval.is_empty() {
            return Ok(None);
        }
        let both: (&Decoder, &Policy) = (decoder, policy);
        let mut known = Known { both, cache: objective.needs().reference.then_some(reference) };
        let found = match ranks.is_alone() {
            true => preference::evaluate(both, eval, config.evaluation_batch(), objective, |batch| {
                known.logps(batch)
            }),
            false => {
                together::evaluate(ranks, both, (eval, config.evaluation_batch()), objective, &mut known)
            }
        };
        let found = found.map_err(|error| self.caused(error))?;
        self.evaluated = Some((step, found.clone()));
        Ok(Some(found))
    }

    /// Evaluates the initial policy.
    pub(super) fn evaluate_before(&mut self, reporter: &mut Reporter) -> Result<()> {
        if self.state.step > 0 || self.setup.eval.is_empty() {
            return Ok(());
        }
        reporter.record(&Event::Evaluation { step: 0 });
        let ranks = self.setup.ranks.clone();
        if let Some(found) = self.evaluate_on(&ranks)? {
            self.check_criterion(&found)?;
            // A reward model has no log-probs.
            self.state.initial_accuracy = found.metrics().logp_accuracy().or_else(|| found.accuracy());
            // JSON, in which a checkpoint holds them, has no other numbers.
            let finite = found.values().into_iter().filter(|(_, value)| value.is_finite());
            self.state.initial = finite.map(|(name, value)| (name.to_string(), value)).collect();
            self.tell(&found, reporter)?;
        }
        Ok(())
    }

    /// Evaluates, and updates the best evaluation.
    pub(super) fn evaluation(&mut self, reporter: &mut Reporter) -> Result<()> {
        if self.setup.eval.is_empty() {
            return Ok(());
        }
        reporter.record(&Event::Evaluation { step: self.state.step });
        let ranks = self.setup.ranks.clone();
        let Some(found) = self.evaluate_on(&ranks)? else { return Ok(()) };
        self.tell(&found, reporter)?;
        self.check_criterion(&found)?;
        let criterion = self.setup.config.criterion();
        let value = criterion.value(&found).unwrap_or(f64::NAN);
        let better = criterion.is_better(value, self.state.best.as_ref());
        if better {
            self.state.best = Some(Best { value, step: self.state.step });
            self.state.evaluations_since_best = 0;
        } else {
            self.state.evaluations_since_best += 1;
        }
        // The best adapter must be on disk so that it can be loaded at the end.
        if better && self.setup.config.load_best_model_at_end {
            self.save(reporter)?;
        }
        Ok(())
    }

    /// Whether the last evaluations, as many as `early_stopping_patience` says, were none the better. A checkpoint notes how many
    /// they were.
    pub(super) fn stops_early(&self) -> bool {
        let patience = self.setup.config.early_stopping_patience;
        let is_reached = |patience: usize| self.state.evaluations_since_best >= patience.max(1);
        !self.setup.eval.is_empty() && patience.is_some_and(is_reached)
    }

    /// Says that the run has stopped early, or `before` this process began.
    pub(super) fn stopped_early(&self, before: bool) -> String {
        let config = &self.setup.config;
        let (found, metric) = (self.state.evaluations_since_best, config.criterion().metric);
        let mut text = format!("stopped early: {found} evaluations without a better {metric}");
        if before {
            text.push_str(&format!(
                "; nothing is left to train: set train.early_stopping_patience above {found} to continue"
            ));
        }
        text
    }

    /// Names the cause of an evaluation whose figures are not finite: the training, or before the first step what it begins with.
    fn caused(&self, error: Error) -> Error {
        match error {
            Error::Record { file, line, message } if self.state.step == 0 => {
                let remedy = finite::remedy(&self.setup.decoder, "set model.dtype: f32");
                Error::Record { file, line, message: format!("{message}; {remedy}") }
            }
            Error::Record { file, line, message } => self.diverged(&format!("{file}:{line} {message}")),
            other => other,
        }
    }

    /// Refuses a metric that decides something and that the loss does not report on these records.
    fn check_criterion(&self, found: &Evaluation) -> Result<()> {
        let config = &self.setup.config;
        let criterion = config.criterion();
        let decides = config.early_stopping_patience.is_some() || config.load_best_model_at_end;
        if !decides || criterion.value(found).is_some() {
            return Ok(());
        }
        let reported: Vec<&str> = found.values().into_iter().map(|(name, _)| name).collect();
        Err(Error::Config(format!(
            "train.metric_for_best_model is {}, which this loss does not report on these records; it reports {}",
            config.metric_for_best_model,
            reported.join(", ")
        )))
    }

    fn tell(&self, found: &Evaluation, reporter: &mut Reporter) -> Result<()> {
        let (step, epoch) = (self.state.step, self.sampler.epoch());
        reporter.record(&Event::Metrics { step, epoch, values: &found.values() });
        self.tell_pairs(step, found, reporter)
    }

    /// Tells what an evaluation of the policy of `step` says of single pairs.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub(super) fn tell_pairs(&self, step: u64, found: &Evaluation, reporter: &mut Reporter) -> Result<()> {
        let outcomes = found.outcomes();
        if outcomes.pairs.is_empty() {
            return Ok(());
        }
        let wrong =
            outcomes.wrong(MOST_WRONG).iter().map(|pair| self.wrong(pair)).collect::<Result<Vec<_>>>()?;
        let group = |(low, high, pairs, right): (i64, i64, usize, usize)| LengthGroup {
            low,
            high,
            pairs: pairs as u64,
            right: right as u64,
        };
        let held_out = HeldOut {
            step,
            pairs: outcomes.pairs.len() as u64,
            right: outcomes.right() as u64,
            by_reward: outcomes.by_reward(),
            wrong: wrong.into_iter().flatten().collect(),
            lengths: outcomes.by_length().into_iter().map(group).collect(),
        };
        reporter.record(&Event::HeldOut(&held_out));
        Ok(())
    }

    /// A pair that is wrong, with its texts.
    fn wrong(&self, pair: &Outcome) -> Result<Option<WrongPair>> {
        let Some(example) = self.setup.eval.get(pair.index)? else { return Ok(None) };
        let text = |tokens: Option<&Vec<u32>>| -> Result<String> {
            match (&self.setup.samples, tokens) {
                (Some(samples), Some(tokens)) => Ok(cut(samples.text(tokens)?)),
                _ => Ok(String::new()),
            }
        };
        Ok(Some(WrongPair {
            origin: example.origin.to_string(),
            prompt: text(Some(&example.prompt))?,
            chosen: text(example.completions.first())?,
            rejected: text(example.completions.get(1))?,
            reward_margin: pair.reward_margin,
            logp_margin: (!self.setup.objective.needs().rewards).then_some(pair.logp_margin),
            chosen_tokens: pair.chosen_tokens,
            rejected_tokens: pair.rejected_tokens,
        }))
    }
}
