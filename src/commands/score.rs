//! `dpo-lora score`: log-probs of every pair.

use serde::Serialize;

use super::base::{self, Adapted};
use super::print;
use crate::cli::ScoreArgs;
use crate::data::{Sources, Truncation};
use crate::error::{Error, Result};
use crate::eval::preference;
use crate::files;
use crate::model::pass::Pass;

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

pub(super) fn run(args: &ScoreArgs) -> Result<()> {
    let Adapted { tokenizer, decoder, policy, .. } = base::open_policy(&args.model)?;
    let records = base::read_records(&Sources::from(args.data.as_str()))?;
    let pairs = base::tokenize_for(decoder.spec(), &tokenizer, &records, &Truncation::default())?;
    let mut lines = Vec::new();
    let reference = |packed: &_| decoder.logps(packed, &policy, Pass::Reference);
    preference::score(&decoder, &policy, &pairs.examples, BATCH, reference, |index, scored| {
        let logps = scored.logps;
        let line = Line {
            index,
            chosen_logp: logps.chosen,
            rejected_logp: logps.rejected,
            ref_chosen_logp: logps.ref_chosen,
            ref_rejected_logp: logps.ref_rejected,
            chosen_tokens: scored.chosen_tokens,
            rejected_tokens: scored.rejected_tokens,
        };
        let mut text = serde_json::to_vec(&line).map_err(|e| Error::Data(e.to_string()))?;
        text.push(b'\n');
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
