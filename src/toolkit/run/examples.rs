//! What a run trains and evaluates on.

use std::collections::BTreeSet;

use super::super::Base;
use super::super::records::{Pairs, Reader};
use super::balance;
use crate::config::RunConfig;
use crate::data::findings::Skipped;
use crate::data::mixture::weighted;
use crate::data::{ChatTokenizer, DataConfig, Dataset, EvalSource, Wanted, hold_out};
use crate::error::{Error, Result};

/// Training and held-out examples, and notices about them.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// To train on.
    pub train: Dataset,
    /// To evaluate on; may be empty.
    pub eval: Dataset,
    /// What was cut, left out or looks wrong, in words.
    pub notes: Vec<String>,
    /// The invalid records that are left out.
    pub skipped: Vec<Skipped>,
}

impl Examples {
    /// Reads and tokenizes what a configuration names.
    ///
    /// # Errors
    /// Fails if a record is invalid, or does not fit the model.
    pub fn read(config: &RunConfig, base: &Base, tokenizer: &ChatTokenizer) -> Result<Self> {
        let (data, reader) = (&config.data, Reader { spec: &base.spec, tokenizer });
        // A loss of texts imitates the chosen answers of pairs; the model never sees the others.
        let wanted = Wanted::of(config.objective.resolve()?.needs());
        let of_train = if config.drawing()?.is_some() { Wanted::Prompts } else { wanted };
        let found = reader.read_as(&data.train, data, of_train)?;
        let mut examples = match &data.eval {
            None => Self {
                train: found.examples,
                eval: Dataset::default(),
                notes: found.notes,
                skipped: found.findings.skipped,
            },
            Some(EvalSource::Fraction(fraction)) => split(found, *fraction, config.seed)?,
            Some(EvalSource::Sources(sources)) => {
                let eval = reader.read_as(sources, &DataConfig { limit: None, ..data.clone() }, wanted)?;
                let notes = eval.notes.into_iter().map(|note| format!("held out: {note}"));
                let notes = found.notes.into_iter().chain(notes).collect();
                let skipped = found.findings.skipped.into_iter().chain(eval.findings.skipped).collect();
                Self { train: found.examples, eval: eval.examples, notes, skipped }
            }
        };
        examples.notes.extend(examples.repeated());
        let weights: Vec<f64> = data.train.0.iter().map(|source| source.weight()).collect();
        let read = examples.train.len();
        examples.train = weighted(&examples.train, &weights, config.seed);
        if examples.train.is_empty() && read > 0 {
            return Err(Error::Config(format!(
                "data.train: of {read} records none is left to train on with the weights {weights:?}; raise a weight"
            )));
        }
        examples.notes.extend(unused(&examples.train, data));
        examples.notes.extend(balance::note(&examples.train, &config.objective.resolve()?));
        Ok(examples)
    }

    /// A warning of held-out records that are trained on.
    fn repeated(&self) -> Option<String> {
        self.train.shared(&self.eval).map(|(count, first)| {
            format!(
                "warning: {count} of {} evaluation records are training records, the first of them {first}; the evaluation says \
                 nothing about new data there: leave out what is repeated",
                self.eval.len()
            )
        })
    }
}

/// A warning of sources none of whose records are trained on.
fn unused(train: &Dataset, data: &DataConfig) -> Option<String> {
    let used: BTreeSet<usize> = train.entries().map(|entry| entry.source as usize).collect();
    let idle = data.train.0.iter().enumerate().filter(|(source, _)| !used.contains(source));
    let idle: Vec<String> = idle.map(|(_, source)| source.path()).collect();
    let limit = if data.limit.is_some() { "data.limit was reached before it, or " } else { "" };
    let why = format!(
        "{limit}it is empty, or its records were filtered, skipped, left out or held out, or its weight leaves none"
    );
    (!idle.is_empty()).then(|| format!("warning: no record of {} is trained on: {why}", idle.join(", ")))
}

/// Holds out a fraction of the records, including those that were dropped.
fn split(found: Pairs, fraction: f64, seed: u64) -> Result<Examples> {
    let Pairs { examples, notes, findings } = found;
    let (_, held_out) = hold_out((0..findings.records as u64).collect(), fraction, seed)?;
    let is_held = |index: &usize| {
        examples.entry(*index).is_some_and(|entry| held_out.binary_search(&entry.record).is_ok())
    };
    let (eval, train): (Vec<usize>, Vec<usize>) = (0..examples.len()).partition(is_held);
    Ok(Examples {
        train: examples.select(train),
        eval: examples.select(eval),
        notes,
        skipped: findings.skipped,
    })
}
