//! What a run trains and evaluates on.

use super::super::{Base, records};
use crate::config::RunConfig;
use crate::data::{ChatTokenizer, EvalSource, Example, Record, hold_out};
use crate::error::Result;

/// Training and held-out examples, and notices about them.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// To train on.
    pub train: Vec<Example>,
    /// To evaluate on; may be empty.
    pub eval: Vec<Example>,
    /// What was cut or left out, in words.
    pub notes: Vec<String>,
}

impl Examples {
    /// Reads and tokenizes what a configuration names.
    ///
    /// # Errors
    /// If a record is broken, or does not fit the model.
    pub fn read(config: &RunConfig, base: &Base, tokenizer: &ChatTokenizer) -> Result<Self> {
        let records = records::read_records(&config.data.train)?;
        let (train, eval): (Vec<Record>, Vec<Record>) = match &config.data.eval {
            None => (records, Vec::new()),
            Some(EvalSource::Sources(sources)) => (records, records::read_records(sources)?),
            Some(EvalSource::Fraction(fraction)) => hold_out(records, *fraction, config.seed)?,
        };
        let truncation = config.data.truncation();
        let train = records::tokenize_for(&base.spec, tokenizer, &train, &truncation)?;
        let mut found = Self { train: train.examples, eval: Vec::new(), notes: train.notes };
        if !eval.is_empty() {
            let eval = records::tokenize_for(&base.spec, tokenizer, &eval, &truncation)?;
            found.notes.extend(eval.notes.into_iter().map(|note| format!("held out: {note}")));
            found.eval = eval.examples;
        }
        Ok(found)
    }
}
