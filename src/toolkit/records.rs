//! Records of files, of the Hub and of the embedded data, made into examples for a model.

use super::{embedded, hub};
use crate::data::{ChatTokenizer, check_positions, check_vocab, tokenize_all};
use crate::data::{Example, Input, Record, Sources, Truncation, records, source};
use crate::error::Result;
use crate::model::spec::DecoderSpec;

/// Records as token ids, checked against the model.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// Those that can be scored.
    pub examples: Vec<Example>,
    /// What was cut or left out, in words; empty if nothing was.
    pub notes: Vec<String>,
}

/// Reads records, of a file or of the embedded data.
///
/// # Errors
/// If a file is missing, or a record is broken.
pub fn read_records(sources: &Sources) -> Result<Vec<Record>> {
    let named: Vec<String> = sources
        .paths()
        .iter()
        .map(|name| match name.strip_prefix(hub::PREFIX) {
            Some(dataset) => hub::dataset(dataset),
            None => Ok(vec![embedded::path(name)?.map_or_else(|| name.clone(), |p| p.display().to_string())]),
        })
        .collect::<Result<Vec<_>>>()?
        .concat();
    let inputs: Vec<Input> = source::resolve(&named.into_iter().collect())?;
    records::load(&inputs)
}

/// Tokenizes records for a model.
///
/// # Errors
/// If nothing is left, or the tokens do not fit the model.
pub fn tokenize_for(
    spec: &DecoderSpec,
    tokenizer: &ChatTokenizer,
    records: &[Record],
    truncation: &Truncation,
) -> Result<Pairs> {
    let found = tokenize_all(tokenizer, records, truncation)?;
    check_vocab(tokenizer, &found.examples, spec.vocab_size)?;
    check_positions(&found.examples, spec.max_positions)?;
    let mut notes = Vec::new();
    if found.truncated > 0 {
        notes.push(format!(
            "{} of {} pairs were truncated to fit max_length",
            found.truncated,
            records.len()
        ));
    }
    if let Some(first) = found.dropped.first() {
        let more = found.dropped.len() - 1;
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        notes.push(format!(
            "{} of {} pairs were left out: {}: {}{more}",
            found.dropped.len(),
            records.len(),
            first.origin,
            first.why
        ));
    }
    Ok(Pairs { examples: found.examples, notes })
}
