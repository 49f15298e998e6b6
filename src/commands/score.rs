//! `dpo-lora score`: log-probs of every pair, or rewards by a reward model.

use serde::Serialize;

use super::adapted::{adapted, base_on};
use super::output::{check_file, print, say};
use super::together;
use crate::cli::ScoreArgs;
use crate::error::{Error, Result};
use crate::files;
use crate::objective::Scored;
use crate::ranks::Ranks;

/// One line of output.
#[derive(Serialize)]
#[serde(untagged)]
enum Line {
    Logps(Logps),
    /// Of a reward model.
    Rewards {
        index: usize,
        chosen_reward: f64,
        rejected_reward: f64,
    },
}

#[derive(Serialize)]
struct Logps {
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
    fn new(indices: &[usize], pair: &[Scored], is_reward: bool) -> Option<Self> {
        let [chosen, rejected, ..] = pair else { return None };
        let index = *indices.get(chosen.group)?;
        if is_reward {
            return Some(Self::Rewards { index, chosen_reward: chosen.logp, rejected_reward: rejected.logp });
        }
        Some(Self::Logps(Logps {
            index,
            chosen_logp: chosen.logp,
            rejected_logp: rejected.logp,
            ref_chosen_logp: chosen.ref_logp?,
            ref_rejected_logp: rejected.ref_logp?,
            chosen_tokens: chosen.tokens,
            rejected_tokens: rejected.tokens,
        }))
    }
}

pub(super) fn run(args: &ScoreArgs) -> Result<()> {
    together::shared(together::FROM_THE_START, |ranks| score(args, ranks))
}

fn score(args: &ScoreArgs, ranks: &Ranks) -> Result<()> {
    args.output.as_deref().map_or(Ok(()), check_file)?;
    let base = base_on(ranks, &args.model)?;
    let adapted = ranks.once_per_machine(|| adapted(&base, &args.model))?;
    let pairs = together::read(ranks, || adapted.pairs(&args.data))?;
    pairs.notes.iter().for_each(|note| say(note));
    together::agree(ranks, &adapted, pairs.examples.fingerprint())?;
    // Some records may have been left out.
    let indices: Vec<usize> = pairs.examples.entries().map(|entry| entry.record as usize).collect();
    let mut lines = Vec::new();
    adapted.score_on(ranks, &pairs.examples, |first, scored| {
        let mut text = Vec::new();
        for pair in scored.chunk_by(|a, b| a.group == b.group) {
            let line = Line::new(&indices[first..], pair, adapted.is_reward())
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
    match args.output.as_ref().filter(|_| ranks.is_first()) {
        Some(path) => files::write_bytes(path, &lines),
        None => Ok(()),
    }
}
