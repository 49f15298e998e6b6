//! `dpo-lora train`.

mod settings;
mod summary;

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Instant;

use super::output::{print, say};
use super::samples::{Drawn, Samples};
use super::signals::{self, Whereabouts};
use crate::cli::TrainArgs;
use crate::config::RunConfig;
use crate::data::show::Form;
use crate::device;
use crate::error::Result;
use crate::model::pass::Pass;
use crate::ops::profile;
use crate::report::{Console, Journal, Jsonl, Reporter, TensorBoard, Verbosity, screen};
use crate::toolkit::{Base, OpenOptions, Ready, Run, set_threads};
use crate::train::run_dir::{Opening, RunDir};
use crate::train::trainer::Trainer;
use settings::{configure, opening};

/// Prompts of the quickstart that are completed before and after, and how many of them are shown.
const SAMPLED: usize = 40;
const SHOWN: usize = 3;

pub(super) fn run(args: &TrainArgs, verbosity: Verbosity) -> Result<()> {
    let quiet = verbosity == Verbosity::Quiet;
    let config = configure(args)?;
    set_threads(config.train.threads)?;
    let base = open(&config, args)?;
    let resuming = matches!(opening(args), Opening::Resume | Opening::ResumeOrStart);
    let run = Run::read(config, &base, resuming)?;
    let first = run.first_record(form())?.filter(|_| !quiet);
    if args.dry_run {
        first.iter().for_each(|first| say(first));
        say(&run.described());
        return Ok(());
    }
    let directory = RunDir::open(&run.config.output_dir, opening(args))?;
    first.iter().for_each(|first| say(first));
    let stop = Arc::new(AtomicU8::new(0));
    let whereabouts = signals::let_finish(&stop, directory.path());
    let Ready { mut trainer, tokenizer, notes, config } = run.ready(&directory, stop, resuming)?;
    let mut reporter = reporter(&directory, trainer.step(), verbosity, whereabouts)?;
    notes.iter().for_each(|note| reporter.note(note));
    describe(&trainer, &mut reporter);

    let is_quickstart = args.config.is_none() && !matches!(args.resume, Some(Some(_)));
    let samples = is_quickstart.then(|| Samples::embedded(SAMPLED, base.eos(&tokenizer))).transpose()?;
    let draw = |trainer: &Trainer, pass| {
        samples
            .as_ref()
            .map(|samples| samples.draw(trainer.decoder(), &tokenizer, (trainer.policy(), pass)))
            .transpose()
    };
    let before = draw(&trainer, Pass::Reference)?;
    let seconds = profiled(args.profile, &mut trainer, &mut reporter)?;
    let after = draw(&trainer, Pass::Policy)?;
    if let (Some(samples), Some(before), Some(after)) = (&samples, before, after) {
        print(compare(samples, &before, &after).as_bytes())?;
    }
    summary::conclude(&mut trainer, (&config, &base), directory.path(), (seconds, quiet))
}

/// How the first record is marked on standard error.
fn form() -> Form {
    if screen::is_coloured() { Form::Terminal } else { Form::Plain }
}

/// Opens the base that the configuration names.
fn open(config: &RunConfig, args: &TrainArgs) -> Result<Base> {
    let model = &config.model;
    let options = OpenOptions {
        dtype: model.dtype,
        device: model.device,
        load_in_4bit: model.load_in_4bit,
        force: args.force,
    };
    Base::open_with(&model.base, &options)
}

/// Trains, and prints where the time went if requested; returns the seconds it took.
fn profiled(profiled: bool, trainer: &mut Trainer, reporter: &mut Reporter) -> Result<f64> {
    profile::enable(profiled);
    if let (true, Some(device)) = (profiled, trainer.decoder().backend()) {
        device.profile(true);
    }
    let start = Instant::now();
    trainer.run(reporter)?;
    let seconds = start.elapsed().as_secs_f64();
    if let (true, Some(device)) = (profiled, trainer.decoder().backend()) {
        say(&device::profile::table(&device.times()?, profile::seconds()));
        device.profile(false);
    } else if profiled {
        let (seconds, entries) = (profile::seconds(), profile::take());
        let peak = profile::peak(trainer.decoder().head().precision());
        say(&profile::table(&entries, seconds, peak));
    }
    profile::enable(false);
    Ok(seconds)
}

fn reporter(run: &RunDir, step: u64, verbosity: Verbosity, whereabouts: Whereabouts) -> Result<Reporter> {
    let metrics = run.path().join("metrics.jsonl");
    let jsonl = if step > 0 { Jsonl::resume(metrics, step)? } else { Jsonl::create(metrics)? };
    // Where a signal would strike is known before the line that says so is printed.
    let reporter = Reporter::new().with(whereabouts).with(Console::stderr(verbosity));
    let journal = Journal::open(&run.path().join("warnings.jsonl"), step)?;
    Ok(reporter.with(jsonl).with(journal).with(TensorBoard::create(run.path())?))
}

fn describe(trainer: &Trainer, reporter: &mut Reporter) {
    let decoder = trainer.decoder();
    let parameters = trainer.policy().trained.values().len();
    let on = decoder.device_description().map_or_else(String::new, |(device, kind)| {
        format!(" on {} ({}), {kind} activations", device.name, device.versions)
    });
    reporter.note(&format!(
        "{} base, {} layers, {}{on}; {parameters} trained parameters; {} steps",
        decoder.spec().model_type,
        decoder.spec().layers.len(),
        decoder.storage(),
        trainer.total_steps()
    ));
    if decoder.device_description().is_some_and(|(_, kind)| kind == "f32") {
        reporter.note(
            "the GPU computes these weights in f32, which is several times slower than bf16; model.dtype: bf16 rounds them",
        );
    }
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
