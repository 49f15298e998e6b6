//! What a run trains and evaluates on.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::Base;
use super::super::records::{Pairs, Reader};
use super::balance;
use crate::config::RunConfig;
use crate::data::dataset::Entry;
use crate::data::findings::Skipped;
use crate::data::mixture::weighted;
use crate::data::{ChatTokenizer, DataConfig, Dataset, EvalSource, Kind, Wanted, hold_out};
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
        examples.notes.extend(known_prompts(&examples.train, &examples.eval)?);
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

/// A note of evaluation records that are not trained on themselves, but whose prompts are, with other answers. Texts have no
/// prompts to speak of, nor has a training set in which all are the same.
fn known_prompts(train: &Dataset, eval: &Dataset) -> Result<Option<String>> {
    if eval.is_empty() {
        return Ok(None);
    }
    // Of the ids, those of both: the training set may be a thousand times as large.
    let of_eval: HashSet<[u8; 32]> = eval.entries().map(|entry| entry.id).collect();
    let trained: HashSet<[u8; 32]> =
        train.entries().map(|entry| entry.id).filter(|id| of_eval.contains(id)).collect();
    let (mut lengths, mut held_out) = (HashSet::new(), HashMap::<_, usize>::new());
    for index in 0..eval.len() {
        let is_new = |entry: &&Entry| {
            let compares = matches!(entry.kind(), Kind::Pair { .. } | Kind::Ranked | Kind::Judged { .. });
            // A single token is the beginning of every sequence.
            compares && entry.prompt() > 1 && !trained.contains(&entry.id)
        };
        let Some(entry) = eval.entry(index).filter(is_new) else { continue };
        lengths.insert(entry.prompt());
        let Some(example) = eval.get(index)? else { continue };
        *held_out.entry(hashed(&example.prompt)).or_default() += 1;
    }
    let (mut records, mut first, mut some) = (0, None, None);
    let mut differ = false;
    for entry in train.entries() {
        if held_out.is_empty() && differ {
            break;
        }
        if !lengths.contains(&entry.prompt()) {
            differ = true;
            continue;
        }
        let Some(prompt) = train.prompt(entry).map(hashed) else { continue };
        differ |= *some.get_or_insert(prompt) != prompt;
        if let Some(count) = held_out.remove(&prompt) {
            records += count;
            first.get_or_insert_with(|| train.origin(entry));
        }
    }
    Ok(first.filter(|_| differ).map(|first| {
        format!(
            "{records} of {} evaluation records have the prompt of a training record, with other answers, the first such prompt \
             at {first}: held-out figures are not of new prompts there; for those, hold out all records of a prompt together, \
             in a file of its own (data.eval)",
            eval.len()
        )
    }))
}

/// The hash of a prompt.
fn hashed(prompt: &[u32]) -> [u8; 32] {
    *blake3::hash(bytemuck::cast_slice(prompt)).as_bytes()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Example, Origin};

    fn pair(line: usize, prompt: &[u32], answers: [u32; 2]) -> Example {
        let completions = answers.map(|token| vec![token]).to_vec();
        Example {
            prompt: prompt.to_vec(),
            completions,
            kind: Kind::PAIR,
            origin: Origin::new("t.jsonl", line),
        }
    }

    #[test]
    fn prompts_that_are_trained_on_with_other_answers_are_noted() {
        let said = |train: &[Example], eval: &[Example]| {
            known_prompts(&train.to_vec().into(), &eval.to_vec().into()).unwrap()
        };
        let train = [pair(1, &[1, 2], [7, 8]), pair(2, &[1, 3], [7, 8]), pair(3, &[1], [7, 8])];
        // The same pair is told elsewhere, and one token is no prompt.
        let silent = [pair(1, &[1, 2], [7, 8]), pair(2, &[1, 4], [7, 8]), pair(3, &[1], [8, 7])];
        assert_eq!(said(&train, &silent), None);
        assert_eq!(said(&train, &[]), None);
        let swapped = [pair(1, &[1, 3], [8, 7]), pair(2, &[1, 3], [7, 9]), pair(3, &[1, 4], [7, 8])];
        let note = said(&train, &swapped).unwrap();
        for words in ["2 of 3 evaluation records have the prompt", "at t.jsonl:2", "data.eval"] {
            assert!(note.contains(words), "{words} in {note}");
        }
        // There is nothing to hold out where all prompts are the same.
        assert_eq!(said(&train[1..2], &swapped), None);
        let text = Example { kind: Kind::Text, completions: vec![vec![9]], ..pair(1, &[1, 3], [7, 9]) };
        assert_eq!(said(&train, &[text]), None);
    }
}
