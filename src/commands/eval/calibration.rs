//! `dpo-lora eval calibration`: whether σ(Δ) is a probability, what training did to the likelihoods, and where.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::plain::objective;
use super::results::Results;
use crate::cli::CalibrationArgs;
use crate::commands::adapted::{adapted, base_on};
use crate::commands::output::{inputs_of, print, say};
use crate::commands::together;
use crate::data::dataset::Entry;
use crate::data::{Dataset, Kind};
use crate::error::{Error, Result};
use crate::eval::calibration::{Calibration, Prediction};
use crate::eval::displacement::{Displacement, PairLogps};
use crate::eval::preference::wilson;
use crate::files::{self, Memo};
use crate::model::pass::Pass;
use crate::objective::{Objective, Role, Scored};
use crate::ranks::Ranks;
use crate::report::Activity;
use crate::report::plot::{Mark, Plot, Series};
use crate::report::sheet::{Cell, Sheet};
use crate::toolkit::Adapted;
use crate::toolkit::drawn::{Drawn, identity};
use crate::toolkit::records::sources_of;

/// Pairs that are scored together: this much is lost where a command is stopped.
const TOGETHER: usize = 64;

/// A pair and its figures.
struct Pair {
    logps: PairLogps,
    /// Whether its figures are log-probs; a reward model has none.
    has_logps: bool,
    prediction: Prediction,
    /// The reward margin.
    margin: f64,
    source: String,
}

/// Figures of a part of the pairs.
#[derive(Serialize)]
struct Group {
    /// `all`, `source` or `length`.
    by: &'static str,
    name: String,
    pairs: usize,
    accuracy: f64,
    accuracy_low: f64,
    accuracy_high: f64,
    margin: f64,
    ece: Option<f64>,
    /// What training did to the likelihoods; `None` of a reward model.
    displacement: Option<Displacement>,
}

/// All figures.
#[derive(Serialize)]
struct Figures {
    calibration: Calibration,
    groups: Vec<Group>,
}

pub(super) fn run(args: &CalibrationArgs) -> Result<()> {
    together::shared(together::FROM_WHAT_IS_KEPT, |ranks| measure(args, ranks))
}

/// Refuses a folder in which the results would take the place of what is read.
fn check_output(args: &CalibrationArgs) -> Result<()> {
    let mut inputs = inputs_of(&args.pairs.model);
    inputs.add_data(&args.pairs.data);
    let files = ["scored.jsonl", "groups.csv", "calibration.json", "calibration.csv", "calibration.svg"];
    inputs.check_folder(&args.output, &files)
}

fn measure(args: &CalibrationArgs, ranks: &Ranks) -> Result<()> {
    check_output(args)?;
    let base = base_on(ranks, &args.pairs.model)?;
    let adapted = ranks.once_per_machine(|| adapted(&base, &args.pairs.model))?;
    if !adapted.policy.is_adapted() {
        return Err(Error::Config("without an adapter every reward is 0; name one with --adapter".into()));
    }
    let objective = objective(&adapted, args.pairs.beta)?;
    let data = together::read(ranks, || adapted.pairs(&args.pairs.data))?;
    data.notes.iter().for_each(|note| say(note));
    together::agree(ranks, &adapted, data.examples.fingerprint())?;
    let scored = scored(ranks, &adapted, &data.examples, &args.output.join("scored.jsonl"))?;
    if !ranks.is_first() {
        return Ok(());
    }
    let sources = sources_of(&args.pairs.data)?;
    let pairs = pairs(&scored, &objective, &data.examples, &sources)?;
    let predictions: Vec<Prediction> = pairs.iter().map(|pair| pair.prediction).collect();
    let calibration =
        Calibration::of(&predictions).ok_or_else(|| Error::Data("there are no pairs to evaluate".into()))?;
    let figures = Figures { calibration, groups: groups(&pairs) };
    let table = table(&figures.groups);
    files::write_bytes(&args.output.join("groups.csv"), table.csv()?.as_bytes())?;
    if !args.pairs.json {
        print(format!("{}\n", table.text()).as_bytes())?;
    }
    let (sheet, plot, remarks) = (bins(&figures.calibration), plot(&figures.calibration), remarks(&figures));
    let results =
        Results { name: "calibration", figures: &figures, sheet: &sheet, plot: &plot, remarks: &remarks };
    results.publish(&args.output, args.pairs.json)
}

/// Scores the completions, and keeps what is scored in a file: the same command goes on there. Only rank 0 has the file, and all
/// figures.
fn scored(ranks: &Ranks, adapted: &Adapted, examples: &Dataset, kept: &Path) -> Result<Vec<Scored>> {
    let mut memo = ranks.is_first().then(|| Memo::<Vec<Scored>>::open(kept)).transpose()?;
    let identity = identity(Drawn { adapted, pass: Pass::Policy, name: "" })?;
    let activity = Activity::new("scoring pairs", examples.len() as u64);
    let mut all = Vec::new();
    for first in (0..examples.len()).step_by(TOGETHER) {
        let part = examples.select(first..(first + TOGETHER).min(examples.len()));
        let kinds: Vec<Kind> = part.entries().map(Entry::kind).collect();
        let described = format!("{identity} {} {kinds:?}", part.fingerprint());
        let compute = || -> Result<Vec<Scored>> {
            let mut found = Vec::new();
            adapted.score_on(ranks, &part, |at, scored| {
                found.extend(scored.iter().map(|it| Scored { group: at + it.group, ..*it }));
                Ok(())
            })?;
            Ok(found)
        };
        let is_known = ranks.told(|| Ok(memo.as_ref().is_some_and(|memo| memo.knows(&described))))?;
        let found = match &mut memo {
            Some(memo) => memo.of(&described, compute)?,
            None if is_known => Vec::new(),
            None => compute()?,
        };
        all.extend(found.iter().map(|it| Scored { group: first + it.group, ..*it }));
        activity.advance(part.len() as u64);
    }
    Ok(all)
}

/// Puts the completions of each record together.
fn pairs(
    scored: &[Scored],
    objective: &Objective,
    examples: &Dataset,
    sources: &BTreeMap<u64, String>,
) -> Result<Vec<Pair>> {
    let groups = scored.chunk_by(|a, b| a.group == b.group);
    let pair = |(entry, group): (&Entry, &[Scored])| {
        let origin = examples.origin(entry);
        let [chosen, rejected, ..] = group else {
            return Err(
                origin.error("this is not a pair; calibration is that of preferences between two answers")
            );
        };
        if (chosen.role, rejected.role) != (Role::Chosen, Role::Rejected) {
            return Err(
                origin.error("this is not a pair; calibration is that of preferences between two answers")
            );
        }
        let (Some(better), Some(worse)) = (objective.reward(chosen), objective.reward(rejected)) else {
            return Err(Error::Config(
                "the loss of this adapter has no implicit reward; give --beta and a loss with one by --config".into(),
            ));
        };
        let of_reference = |it: &Scored| it.ref_logp.unwrap_or(it.logp);
        let margin = better - worse;
        Ok(Pair {
            has_logps: chosen.ref_logp.is_some(),
            logps: PairLogps {
                chosen: (chosen.logp, of_reference(chosen)),
                rejected: (rejected.logp, of_reference(rejected)),
                chosen_tokens: chosen.tokens,
                rejected_tokens: rejected.tokens,
            },
            prediction: Prediction::of_margin(margin, chosen.label),
            margin,
            source: sources.get(&entry.record).cloned().unwrap_or_else(|| origin.file.to_string()),
        })
    };
    examples.entries().zip(groups).map(pair).collect()
}

/// All pairs, by source if there are several, and by length.
fn groups(pairs: &[Pair]) -> Vec<Group> {
    let all: Vec<&Pair> = pairs.iter().collect();
    let mut found = vec![group("all", "all pairs".into(), &all)];
    let mut by_source: BTreeMap<&str, Vec<&Pair>> = BTreeMap::new();
    pairs.iter().for_each(|pair| by_source.entry(&pair.source).or_default().push(pair));
    if by_source.len() > 1 {
        found.extend(by_source.iter().map(|(name, pairs)| group("source", (*name).into(), pairs)));
    }
    let which = |name: &str, holds: &dyn Fn(&Pair) -> bool| {
        let pairs: Vec<&Pair> = pairs.iter().filter(|pair| holds(pair)).collect();
        (!pairs.is_empty()).then(|| group("length", name.into(), &pairs))
    };
    let order = |pair: &Pair| pair.logps.chosen_tokens.cmp(&pair.logps.rejected_tokens);
    found.extend(which("chosen longer", &|pair| order(pair).is_gt()));
    found.extend(which("equally long", &|pair| order(pair).is_eq()));
    found.extend(which("rejected longer", &|pair| order(pair).is_lt()));
    let tokens = |pair: &Pair| pair.logps.chosen_tokens.max(pair.logps.rejected_tokens);
    let mut lengths: Vec<usize> = pairs.iter().map(tokens).collect();
    lengths.sort_unstable();
    let mut from = 0;
    for part in 1..=4 {
        let Some(to) = (part * lengths.len()).div_ceil(4).checked_sub(1).map(|at| lengths[at]) else { break };
        if to >= from {
            let name = format!("{from} to {to} tokens");
            found.extend(which(&name, &|pair| (from..=to).contains(&tokens(pair))));
            from = to + 1;
        }
    }
    found
}

fn group(by: &'static str, name: String, pairs: &[&Pair]) -> Group {
    let n = pairs.len().max(1) as f64;
    let accuracy = pairs.iter().filter(|pair| pair.margin > 0.0).count() as f64 / n;
    let (accuracy_low, accuracy_high) = wilson(accuracy, n);
    let predictions: Vec<Prediction> = pairs.iter().map(|pair| pair.prediction).collect();
    let logps: Vec<PairLogps> = pairs.iter().filter(|pair| pair.has_logps).map(|pair| pair.logps).collect();
    Group {
        by,
        name,
        pairs: pairs.len(),
        accuracy,
        accuracy_low,
        accuracy_high,
        margin: pairs.iter().map(|pair| pair.margin).sum::<f64>() / n,
        ece: Calibration::of(&predictions).map(|found| found.ece),
        displacement: (!logps.is_empty()).then(|| Displacement::of(&logps)),
    }
}

fn table(groups: &[Group]) -> Sheet {
    let columns = [
        "pairs of",
        "pairs",
        "accuracy",
        "low",
        "high",
        "margin",
        "ECE",
        "chosen moved",
        "rejected moved",
        "chosen fell",
        "both fell",
    ];
    let mut sheet = Sheet::new(columns);
    for group in groups {
        let moved = |of: fn(&Displacement) -> f64| group.displacement.as_ref().map(of);
        sheet.push([
            Cell::Text(group.name.clone()),
            Cell::count(group.pairs),
            Cell::Share(group.accuracy),
            Cell::Share(group.accuracy_low),
            Cell::Share(group.accuracy_high),
            Cell::Number(group.margin, 4),
            Cell::number(group.ece, 4),
            Cell::number(moved(|it| it.chosen), 2),
            Cell::number(moved(|it| it.rejected), 2),
            Cell::share(moved(|it| it.chosen_fell)),
            Cell::share(moved(|it| it.both_fell)),
        ]);
    }
    sheet
}

fn bins(found: &Calibration) -> Sheet {
    let mut sheet = Sheet::new(["from", "to", "pairs", "confidence", "accuracy", "difference"]);
    for bin in &found.bins {
        sheet.push([
            Cell::Number(bin.from, 2),
            Cell::Number(bin.to, 2),
            Cell::count(bin.pairs),
            Cell::Share(bin.confidence),
            Cell::Share(bin.accuracy),
            Cell::Number(bin.accuracy - bin.confidence, 4),
        ]);
    }
    sheet
}

fn plot(found: &Calibration) -> Plot {
    let mark = |bin: &crate::eval::calibration::Bin| Mark {
        at: (bin.confidence, bin.accuracy),
        y: Some(wilson(bin.accuracy, bin.pairs as f64)),
        ..Mark::default()
    };
    let diagonal = [0.5, 1.0].map(|at| Mark { at: (at, at), ..Mark::default() }).to_vec();
    Plot {
        title: "calibration of the preference probability".into(),
        x: "confidence: sigmoid(margin) of the favoured answer".into(),
        y: "how often it is the preferred one".into(),
        series: vec![
            Series {
                name: "pairs".into(),
                marks: found.bins.iter().map(mark).collect(),
                line: false,
                dots: true,
            },
            Series { name: "calibrated".into(), marks: diagonal, line: true, dots: false },
        ],
    }
}

fn remarks(figures: &Figures) -> Vec<String> {
    let found = &figures.calibration;
    let direction = if found.confidence > found.accuracy { "over-confident" } else { "under-confident" };
    let mut remarks = vec![format!(
        "ECE {:.4} (largest error of a bin {:.4}), Brier score {:.4}, log loss {:.4}; mean confidence {:.1} %, accuracy {:.1} \
         %: {direction}",
        found.ece,
        found.largest_error,
        found.brier,
        found.log_loss,
        100.0 * found.confidence,
        100.0 * found.accuracy
    )];
    remarks.extend(figures.groups.first().and_then(|all| all.displacement.as_ref()).map(|moved| {
        format!(
            "likelihood: chosen answers moved by {:+.2} nats ({:+.4} a token), rejected ones by {:+.2} ({:+.4} a token); the \
             chosen answer fell in {:.1} % of the pairs, both in {:.1} %",
            moved.chosen,
            moved.chosen_per_token,
            moved.rejected,
            moved.rejected_per_token,
            100.0 * moved.chosen_fell,
            100.0 * moved.both_fell
        )
    }));
    remarks
}
