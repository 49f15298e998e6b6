//! `dpo-lora eval frontier`: expected reward against divergence from the reference.

mod best_of;
mod figures;
mod measuring;
mod names;
mod show;

use self::best_of::BestOf;
use self::figures::{Compared, Figures, Measured, Placed, REFERENCE};
use self::measuring::Measuring;
use super::questions;
use super::results::Results;
use crate::cli::FrontierArgs;
use crate::commands::output::{model_inputs, print};
use crate::commands::together;
use crate::error::Result;
use crate::eval::dominance;
use crate::eval::frontier::{PerPrompt, Point, efficient};
use crate::files;
use crate::model::pass::Pass;
use crate::ranks::Ranks;
use crate::toolkit::{Base, OpenOptions, TrainedWith, set_threads};

pub(super) fn run(args: &FrontierArgs) -> Result<()> {
    together::shared(together::FROM_WHAT_IS_KEPT, |ranks| measure(args, ranks))
}

/// Refuses a folder in which the results would take the place of what is read.
fn check_output(args: &FrontierArgs) -> Result<()> {
    let mut inputs = model_inputs(&args.set.base, &args.set.runs);
    questions::add_to(&mut inputs, &args.draw);
    let files =
        ["samples.jsonl", "scores.jsonl", "compared.csv", "frontier.json", "frontier.csv", "frontier.svg"];
    inputs.check_folder(&args.output, &files)
}

fn measure(args: &FrontierArgs, ranks: &Ranks) -> Result<()> {
    check_output(args)?;
    let runtime = args.set.runtime;
    set_threads(together::threads(runtime.threads, ranks))?;
    let options = OpenOptions {
        dtype: runtime.dtype,
        device: runtime.device,
        load_in_4bit: runtime.load_in_4bit,
        force: args.set.force,
    };
    let base = ranks.once_per_machine(|| Base::open_with(&args.set.base, &options))?;
    let mut measuring = Measuring::open(ranks, args, &base)?;
    let names = names::of(&args.set.runs);
    let mut found = Vec::new();
    for (run, (series, name)) in args.set.runs.iter().zip(&names) {
        let open = || base.with_adapters(&[run], TrainedWith::of(run)?, args.set.force);
        let adapted = ranks.once_per_machine(open)?;
        let prompts = together::read(ranks, || questions::read(&args.draw, &adapted.tokenizer))?;
        together::agree(ranks, &adapted, questions::fingerprint(&prompts))?;
        if found.is_empty() {
            found.push(measuring.policy((&adapted, Pass::Reference), REFERENCE, "", &prompts)?);
            if let Some(best_of) = BestOf::of(args) {
                found.extend(best_of.measure(&mut measuring, &adapted, &prompts)?);
            }
        }
        found.push(measuring.policy((&adapted, Pass::Policy), name, series, &prompts)?);
    }
    if !ranks.is_first() {
        return Ok(());
    }
    measuring.say_kept();
    publish(args, found)
}

/// Compares the policies and writes what was found.
fn publish(args: &FrontierArgs, found: Vec<Measured>) -> Result<()> {
    let compared = compared(&found, args.draw.seed);
    let points: Vec<Point> = found.iter().map(|it| it.point.clone()).collect();
    let on = efficient(&points);
    let points = found.into_iter().zip(on).map(|(it, on_frontier)| Placed {
        point: it.point,
        on_frontier,
        kl_bound: it.kl_bound,
    });
    let figures = Figures {
        reward: args.reward.to_string(),
        max_new_tokens: args.draw.max_new_tokens,
        points: points.collect(),
        compared,
    };
    let (sheet, plot, remarks) =
        (show::sheet(&figures), show::plot(&figures, args.figure_kl), show::remarks(&figures));
    if !figures.compared.is_empty() {
        let table = show::comparisons(&figures.compared);
        files::write_bytes(&args.output.join("compared.csv"), table.csv()?.as_bytes())?;
        if !args.results.json {
            print(format!("{}\n", table.text()).as_bytes())?;
        }
    }
    let results =
        Results { name: "frontier", figures: &figures, sheet: &sheet, plot: &plot, remarks: &remarks };
    results.publish(&args.output, args.results.json)
}

/// The frontiers of every two series.
fn compared(found: &[Measured], seed: u64) -> Vec<Compared> {
    let Some(reference) = found.first() else { return Vec::new() };
    let mut series: Vec<&str> = Vec::new();
    for it in found.iter().filter(|it| !it.point.series.is_empty()) {
        if !series.contains(&it.point.series.as_str()) {
            series.push(&it.point.series);
        }
    }
    let of = |name: &str| -> Vec<&PerPrompt> {
        found.iter().filter(|it| it.point.series == name).map(|it| &it.means).collect()
    };
    let mut all = Vec::new();
    for (i, first) in series.iter().enumerate() {
        for second in &series[i + 1..] {
            let (of_first, of_second) = (of(first), of(second));
            let Some(found) = dominance::compare(&reference.means.rewards, &of_first, &of_second, seed)
            else {
                continue;
            };
            all.push(Compared { first: first.to_string(), second: second.to_string(), found });
        }
    }
    all
}
