//! `dpo-lora train`.

mod beside;
pub(super) mod configure;
mod continued;
mod overrides;
pub(super) mod parts;
mod resumed;
mod stages;
mod summary;
pub(super) mod together;

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use self::parts::{check_trackers, describe, form, open, profiled, reporter};
use self::resumed::{is_resuming, opening};
use super::output::{print_text, say, say_as_it_is};
use super::samples::{Drawn, Samples};
use super::serve;
use super::signals;
use super::together as shared;
use crate::cli::TrainArgs;
use crate::config::{Recipe, RunConfig};
use crate::data::ChatTokenizer;
use crate::error::{Error, Result};
use crate::model::pass::Pass;
use crate::ranks::Ranks;
use crate::report::{Reporter, Verbosity};
use crate::toolkit::{Base, Inputs, Ready, Run, set_threads};
use crate::train::run_dir::{self, RunDir};
use crate::train::trainer::Trainer;

/// Prompts of the quickstart that are completed before and after, and how many of them are shown.
const SAMPLED: usize = 40;
const SHOWN: usize = 3;

pub(super) fn run(args: &TrainArgs, verbosity: Verbosity) -> Result<()> {
    let ranks = shared::join()?;
    shared::all(&ranks, together::AGAIN, || match together::agreed(args, &ranks)? {
        Recipe::Single(config) => single(*config, &ranks, args, verbosity),
        Recipe::Staged(staged) => stages::run(&staged, &ranks, args, verbosity),
    })
}

/// One run.
fn single(config: RunConfig, ranks: &Ranks, args: &TrainArgs, verbosity: Verbosity) -> Result<()> {
    let (quiet, resuming) = (verbosity == Verbosity::Quiet || !ranks.is_first(), is_resuming(args));
    if resuming && !run_dir::stages(&config.output_dir).is_empty() {
        return Err(Error::Config(format!(
            "{} holds a run with stages, and the configuration has none; choose another output_dir, or use --overwrite to \
             start over",
            config.output_dir.display()
        )));
    }
    together::set_patience(&config, ranks);
    set_threads(shared::threads(config.train.threads, ranks))?;
    check_trackers(&config)?;
    let base = ranks.once_per_machine(|| open(&config, args))?;
    let inputs = shared::read(ranks, || Inputs::read(config, &base, resuming))?;
    let mut run = ranks.once_per_machine(|| Run::on(ranks, inputs, &base))?;
    if ranks.is_first() {
        continued::check(args, &run.config, &[], &base)?;
    }
    let first = run.first_record(form())?.filter(|_| !quiet);
    if args.dry_run {
        first.iter().for_each(|first| say_as_it_is(first));
        if ranks.is_first() {
            say(&run.described()?);
        }
        return Ok(());
    }
    let directory = match ranks.is_first() {
        // Another run may have taken it since it was chosen.
        true if configure::takes_next(args) => RunDir::open_next(&run.config.output_dir)?,
        true => RunDir::open(&run.config.output_dir, opening(args))?,
        false => RunDir::of_another(&run.config.output_dir),
    };
    run.config.output_dir = directory.path().to_path_buf();
    first.iter().for_each(|first| say_as_it_is(first));
    let stop = Arc::new(AtomicU8::new(0));
    let whereabouts = signals::let_finish(&stop, directory.path());
    args.serve
        .filter(|_| ranks.is_first())
        .map(|at| serve::start(at, vec![directory.path().to_path_buf()]))
        .transpose()?;
    let course = run.course()?;
    let Ready { mut trainer, tokenizer, notes, config } = run.ready(&directory, stop.clone(), resuming)?;
    if !ranks.is_first() {
        signals::let_all_finish(&stop);
        return trainer.run(&mut Reporter::new());
    }
    let to = (verbosity, args.json, None);
    let mut reporter = reporter((&directory, &config), trainer.step(), to, whereabouts)?;
    notes.iter().for_each(|note| reporter.note(note));
    describe(&trainer, &course, &mut reporter);
    together::describe(&trainer, ranks, &mut reporter);

    let (seconds, samples) = compared(args, (&base, &*tokenizer), &mut trainer, &mut reporter)?;
    let told = summary::Told { quiet, samples, json: args.json, stage: None };
    summary::conclude(&mut trainer, &config.objective.resolve()?, directory.path(), (seconds, told))?;
    if !quiet {
        together::conclude(ranks, seconds);
        let adapter = directory.path().join("adapter");
        say(&summary::next(&config, &config.model.adapter, &base, &adapter));
    }
    Ok(())
}

/// Trains. The quickstart's prompts are completed before and after, and shown. Returns the seconds that the training took, and
/// whether completions were shown.
fn compared(
    args: &TrainArgs,
    (base, tokenizer): (&Base, &ChatTokenizer),
    trainer: &mut Trainer,
    reporter: &mut Reporter,
) -> Result<(f64, bool)> {
    let samples = (configure::is_quickstart(args) && !args.json)
        .then(|| Samples::embedded(SAMPLED, base.eos(tokenizer)))
        .transpose()?;
    let draw = |trainer: &Trainer, pass| {
        samples
            .as_ref()
            .map(|samples| samples.draw(trainer.decoder(), tokenizer, (trainer.policy(), pass)))
            .transpose()
    };
    let before = draw(trainer, Pass::Reference)?;
    let seconds = profiled(args.profile, trainer, reporter)?;
    let after = draw(trainer, Pass::Policy)?;
    if let (Some(samples), Some(before), Some(after)) = (&samples, before, after) {
        print_text(&compare(samples, &before, &after))?;
    }
    Ok((seconds, samples.is_some()))
}

/// Completions side by side.
fn compare(samples: &Samples, before: &Drawn, after: &Drawn) -> String {
    let mut text = String::from("\nsamples at temperature 1, from held-out prompts:\n");
    let shown = samples.prompts().iter().zip(&before.texts).zip(&after.texts).take(SHOWN);
    for ((prompt, before), after) in shown {
        text.push_str(&format!("\n> {prompt}\n  before:{}\n  after: {}\n", spaced(before), spaced(after)));
    }
    text.push_str(&format!(
        "\nfavourable words among the judging ones, {} completions: before {:.0} %, after {:.0} %\n",
        samples.prompts().len(),
        100.0 * before.reward,
        100.0 * after.reward
    ));
    text
}

/// A completion with one space before it.
fn spaced(text: &str) -> String {
    format!(" {}", text.trim())
}
