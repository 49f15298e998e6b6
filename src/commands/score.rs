//! `dpo-lora score`: log-probs of every pair.

use serde::Serialize;

use super::adapted::{adapted, base};
use super::output::{print, say};
use crate::cli::ScoreArgs;
use crate::data::{Example, Record, Sources};
use crate::error::{Error, Result};
use crate::eval::preference;
use crate::files;
use crate::model::pass::Pass;
use crate::objective::Scored;
use crate::toolkit::{Adapted, records};

/// Pairs in a batch; their log-probs do not depend on it.
const BATCH: usize = 4;

/// One line of output.
#[derive(Serialize)]
struct Line {
    index: usize,
    chosen_logp: f64,
    rejected_logp: f64,
    ref_chosen_logp: f64,
    ref_rejected_logp: f64,
    chosen_tokens: usize,
    rejected_tokens: usize,
}

impl Line {
    /// The line of a pair in a batch whose records have these indices.
    fn new(indices: &[usize], pair: &[Scored]) -> Option<Self> {
        let [chosen, rejected] = pair else { return None };
        Some(Self {
            index: *indices.get(chosen.group)?,
            chosen_logp: chosen.logp,
            rejected_logp: rejected.logp,
            ref_chosen_logp: chosen.ref_logp?,
            ref_rejected_logp: rejected.ref_logp?,
            chosen_tokens: chosen.tokens,
            rejected_tokens: rejected.tokens,
        })
    }
}

/// The place of each example among the records, of which some may have been left out.
fn indices(records: &[Record], examples: &[Example]) -> Vec<usize> {
    let mut records = records.iter().enumerate();
    let place = |example: &Example| records.find(|(_, record)| record.origin == example.origin);
    examples.iter().map(place).filter_map(|found| found.map(|(index, _)| index)).collect()
}

pub(super) fn run(args: &ScoreArgs) -> Result<()> {
    let base = base(&args.model)?;
    let Adapted { tokenizer, decoder, policy, trained, .. } = adapted(&base, &args.model)?;
    let records = records::read_records(&Sources::from(args.data.as_str()))?;
    let pairs = records::tokenize_for(decoder.spec(), &tokenizer, &records, &trained.data.truncation())?;
    pairs.notes.iter().for_each(|note| say(note));
    let indices = indices(&records, &pairs.examples);
    let mut lines = Vec::new();
    let reference = |packed: &_| decoder.logps(packed, &policy, Pass::Reference).map(Some);
    preference::score((&decoder, &policy), &pairs.examples, BATCH, reference, |first, scored| {
        let mut text = Vec::new();
        for pair in scored.chunk_by(|a, b| a.group == b.group) {
            let line = Line::new(&indices[first..], pair)
                .ok_or_else(|| Error::Data("a record is not a pair".into()))?;
            serde_json::to_writer(&mut text, &line).map_err(|e| Error::Data(e.to_string()))?;
            text.push(b'\n');
        }
        match &args.output {
            None => print(&text),
            Some(_) => {
                lines.extend(text);
                Ok(())
            }
        }
    })?;
    match &args.output {
        Some(path) => files::write_bytes(path, &lines),
        None => Ok(()),
    }
}
