//! What every run does: open its base, train, report.

use std::path::Path;
use std::time::Instant;

use crate::cli::TrainArgs;
use crate::commands::output::{colours, print, say};
use crate::config::RunConfig;
use crate::data::show::Form;
use crate::device;
use crate::error::Result;
use crate::ops::profile;
use crate::report::{Console, Jsonl, Reporter, TensorBoard, Verbosity};
use crate::toolkit::{Base, OpenOptions, announce};
use crate::train::course::Course;
use crate::train::reference::ReferenceCache;
use crate::train::run_dir::{Opening, RunDir};
use crate::train::trainer::Trainer;

/// How the first record is marked on standard error.
pub(super) fn form() -> Form {
    if colours(&std::io::stderr()) { Form::Terminal } else { Form::Plain }
}

/// Opens the base that the configuration names.
pub(super) fn open(config: &RunConfig, args: &TrainArgs) -> Result<Base> {
    let model = &config.model;
    let options = OpenOptions {
        dtype: model.dtype,
        device: model.device,
        load_in_4bit: model.load_in_4bit,
        force: args.force,
    };
    Base::open_with(&model.base, &options)
}

pub(super) fn opening(args: &TrainArgs) -> Opening {
    match (args.resume, args.overwrite) {
        (true, _) => Opening::Resume,
        (_, true) => Opening::Overwrite,
        _ => Opening::Fresh,
    }
}

/// Trains, and prints where the time went if requested; returns the seconds it took.
pub(super) fn profiled(profiled: bool, trainer: &mut Trainer, reporter: &mut Reporter) -> Result<f64> {
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
        let (total, entries) = (profile::total(), profile::take());
        let peak = profile::peak(trainer.decoder().head().precision());
        say(&profile::table(&entries, total, peak));
    }
    profile::enable(false);
    Ok(seconds)
}

/// Prints the summary: the accuracy on held-out pairs, and where the adapter is.
pub(super) fn conclude(trainer: &mut Trainer, directory: &Path, (seconds, quiet): (f64, bool)) -> Result<()> {
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

pub(super) fn reporter(run: &RunDir, step: u64, quiet: bool) -> Result<Reporter> {
    let verbosity = if quiet { Verbosity::Quiet } else { Verbosity::Normal };
    let metrics = run.path().join("metrics.jsonl");
    let jsonl = if step > 0 { Jsonl::resume(metrics, step)? } else { Jsonl::create(metrics)? };
    Ok(Reporter::new().with(Console::stderr(verbosity)).with(jsonl).with(TensorBoard::create(run.path())?))
}

pub(super) fn describe(trainer: &Trainer, course: &Course, reporter: &mut Reporter) {
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
