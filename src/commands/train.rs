//! `dpo-lora train`.

mod configure;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Instant;

use super::output::{colours, print, say};
use super::samples::{Drawn, Samples};
use super::signals;
use crate::cli::TrainArgs;
use crate::config::RunConfig;
use crate::data::show::Form;
use crate::device;
use crate::error::Result;
use crate::model::pass::Pass;
use crate::ops::profile;
use crate::report::{Console, Jsonl, Reporter, TensorBoard, Verbosity};
use crate::toolkit::{Base, OpenOptions, Ready, Run, announce, set_threads};
use crate::train::course::Course;
use crate::train::reference::ReferenceCache;
use crate::train::run_dir::{Opening, RunDir};
use crate::train::trainer::Trainer;

/// Prompts of the quickstart that are completed before and after, and how many of them are shown.
const SAMPLED: usize = 40;
const SHOWN: usize = 3;

pub(super) fn run(args: &TrainArgs, quiet: bool) -> Result<()> {
    let config = configure::config(args)?;
    set_threads(config.train.threads)?;
    let base = open(&config, args)?;
    let run = Run::read(config, &base, args.resume)?;
    let first = run.first_record(form())?.filter(|_| !quiet);
    if args.dry_run {
        first.iter().for_each(|first| say(first));
        say(&run.described()?);
        return Ok(());
    }
    let directory = RunDir::open(&run.config.output_dir, opening(args))?;
    first.iter().for_each(|first| say(first));
    let stop = Arc::new(AtomicU8::new(0));
    signals::watch(&stop)?;
    let course = run.course()?;
    let Ready { mut trainer, tokenizer, notes, .. } = run.ready(&directory, stop, args.resume)?;
    let mut reporter = reporter(&directory, trainer.step(), quiet)?;
    notes.iter().for_each(|note| reporter.note(note));
    describe(&trainer, &course, &mut reporter);

    let samples = configure::is_quickstart(args)
        .then(|| Samples::embedded(SAMPLED, base.eos(&tokenizer)))
        .transpose()?;
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
    conclude(&mut trainer, directory.path(), (seconds, quiet))
}

/// How the first record is marked on standard error.
fn form() -> Form {
    if colours(&std::io::stderr()) { Form::Terminal } else { Form::Plain }
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

fn opening(args: &TrainArgs) -> Opening {
    match (args.resume, args.overwrite) {
        (true, _) => Opening::Resume,
        (_, true) => Opening::Overwrite,
        _ => Opening::Fresh,
    }
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

/// Prints the summary: the accuracy on held-out pairs, and where the adapter is.
fn conclude(trainer: &mut Trainer, directory: &Path, (seconds, quiet): (f64, bool)) -> Result<()> {
    let after = trainer.evaluate()?.and_then(|found| found.metrics().logp_accuracy());
    if let (Some(before), Some(after)) = (trainer.initial_accuracy(), after) {
        let text =
            format!("held-out accuracy: before {:.1} %, after {:.1} %\n", 100.0 * before, 100.0 * after);
        print(text.as_bytes())?;
    }
    if !quiet {
        let passes = reference_passes(trainer.reference());
        say(&format!(
            "trained in {seconds:.1} s; {passes}; adapter: {}",
            directory.join("adapter").display()
        ));
    }
    Ok(())
}

/// What the run had from the cache, once it is over.
fn reference_passes(reference: &ReferenceCache) -> String {
    match reference.computed {
        0 => "no reference pass was made".into(),
        computed => format!("reference log-probs of {computed} pairs were computed"),
    }
}

fn reporter(run: &RunDir, step: u64, quiet: bool) -> Result<Reporter> {
    let verbosity = if quiet { Verbosity::Quiet } else { Verbosity::Normal };
    let metrics = run.path().join("metrics.jsonl");
    let jsonl = if step > 0 { Jsonl::resume(metrics, step)? } else { Jsonl::create(metrics)? };
    Ok(Reporter::new().with(Console::stderr(verbosity)).with(jsonl).with(TensorBoard::create(run.path())?))
}

fn describe(trainer: &Trainer, course: &Course, reporter: &mut Reporter) {
    let decoder = trainer.decoder();
    let parameters = trainer.policy().trained.values().len();
    let on = decoder.device_description().map_or_else(String::new, |(device, kind)| {
        format!(" on {} ({}), {kind} activations", device.name, device.versions)
    });
    reporter.note(&format!(
        "{} base, {} layers, {}{on}; {parameters} trained parameters",
        decoder.spec().model_type,
        decoder.spec().layers.len(),
        decoder.storage(),
    ));
    announce(course, trainer.step(), reporter);
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
