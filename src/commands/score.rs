//! `dpo-lora score`: log-probs of every pair, or rewards by a reward model.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::adapted::{adapted, base_on};
use super::output::{inputs_of, print, say};
use super::together;
use crate::cli::ScoreArgs;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::files;
use crate::objective::{Role, Scored};
use crate::ranks::Ranks;
use crate::train::trainer::check_pairs_for;

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
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    gold: Option<Gold>,
}

/// A third answer of a pair, which is imitated. Losses of triples read it.
#[derive(Serialize)]
struct Gold {
    gold_logp: f64,
    ref_gold_logp: f64,
    gold_tokens: usize,
}

impl Line {
    /// The line of a pair in a batch whose records have these indices.
    fn new(indices: &[usize], pair: &[Scored], is_reward: bool) -> Option<Self> {
        let [chosen, rejected, third @ ..] = pair else { return None };
        let index = *indices.get(chosen.group)?;
        if is_reward {
            return Some(Self::Rewards { index, chosen_reward: chosen.logp, rejected_reward: rejected.logp });
        }
        let gold = |it: &Scored| {
            Some(Gold { gold_logp: it.logp, ref_gold_logp: it.ref_logp?, gold_tokens: it.tokens })
        };
        Some(Self::Logps(Logps {
            index,
            chosen_logp: chosen.logp,
            rejected_logp: rejected.logp,
            ref_chosen_logp: chosen.ref_logp?,
            ref_rejected_logp: rejected.ref_logp?,
            chosen_tokens: chosen.tokens,
            rejected_tokens: rejected.tokens,
            gold: third.iter().find(|it| it.role == Role::Gold).and_then(gold),
        }))
    }
}

pub(super) fn run(args: &ScoreArgs) -> Result<()> {
    together::shared(together::FROM_THE_START, |ranks| score(args, ranks))
}

/// Refuses an output that is read, and a file that holds no scores.
fn check_output(args: &ScoreArgs, output: &Path) -> Result<()> {
    let mut inputs = inputs_of(&args.model);
    inputs.add_data(&args.data);
    inputs.check_file(output)?;
    files::check_earlier(output, "a file of scores", |head| {
        let first = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line: Value = serde_json::from_slice(first).unwrap_or_default();
        line["index"].is_u64() && ["chosen_logp", "chosen_reward"].iter().any(|key| line[key].is_number())
    })
}

/// Checks, before the first line is printed, that every record is a pair.
fn check_records(examples: &Dataset) -> Result<()> {
    check_pairs_for(examples, ("scored", "write two answers to compare as a pair"))
}

fn score(args: &ScoreArgs, ranks: &Ranks) -> Result<()> {
    args.output.as_deref().map_or(Ok(()), |output| check_output(args, output))?;
    let base = base_on(ranks, &args.model)?;
    let adapted = ranks.once_per_machine(|| adapted(&base, &args.model))?;
    let pairs = together::read(ranks, || {
        let pairs = adapted.pairs(&args.data)?;
        check_records(&pairs.examples).map(|()| pairs)
    })?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Example, Kind, Origin};

    #[test]
    fn records_of_other_kinds_are_refused_by_place() {
        let example = |line: usize, kind| Example {
            prompt: vec![1],
            completions: vec![vec![2], vec![3]],
            kind,
            origin: Origin::new("t", line),
        };
        check_records(&vec![example(1, Kind::pair(0.5))].into()).unwrap();
        for (kind, words) in [
            (Kind::Ranked, "t:2: this record is a ranked list"),
            (Kind::Judged { desirable: true }, "t:2: this record is a judged completion"),
            (Kind::Text, "t:2: this record is a text to imitate"),
        ] {
            let found = check_records(&vec![example(1, Kind::pair(1.0)), example(2, kind)].into());
            let error = found.unwrap_err().to_string();
            assert!(error.starts_with(words) && error.contains("are pairs"), "{error}");
        }
    }

    #[test]
    fn a_line_has_every_answer_of_its_record() {
        let scored = |role, logp| Scored {
            group: 1,
            role,
            label: 1.0,
            margin: 0.0,
            logp,
            ref_logp: Some(logp - 1.0),
            tokens: 3,
        };
        let triple = [scored(Role::Chosen, -1.0), scored(Role::Rejected, -2.0), scored(Role::Gold, -3.0)];
        let line = |of: &[Scored]| serde_json::to_value(Line::new(&[7, 9], of, false).unwrap()).unwrap();
        let found = line(&triple);
        assert_eq!((&found["index"], &found["gold_logp"]), (&9.into(), &(-3.0).into()));
        assert_eq!((&found["ref_gold_logp"], &found["gold_tokens"]), (&(-4.0).into(), &3.into()));
        assert!(line(&triple[..2]).get("gold_logp").is_none());
        assert!(Line::new(&[7, 9], &triple[..1], false).is_none());
    }
}
