//! What every run does: open its base, train, report.

use std::time::Instant;

use crate::cli::TrainArgs;
use crate::commands::output::say;
use crate::commands::report::settings;
use crate::commands::signals::Whereabouts;
use crate::config::RunConfig;
use crate::data::show::Form;
use crate::device;
use crate::error::Result;
use crate::ops::profile;
use crate::report::{
    Console, Described, HeldOutFile, Journal, Jsonl, Lines, Reporter, SampleLog, TensorBoard, Verbosity,
    check_tracker, open_tracker, screen,
};
use crate::toolkit::{Base, OpenOptions, announce};
use crate::train::course::Course;
use crate::train::run_dir::RunDir;
use crate::train::trainer::Trainer;

/// How the first record is marked on standard error.
pub(super) fn form() -> Form {
    if screen::is_coloured() { Form::Terminal } else { Form::Plain }
}

/// Opens the base that the configuration names.
pub(in crate::commands) fn open(config: &RunConfig, args: &TrainArgs) -> Result<Base> {
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

/// The sinks of a run; with `json`, standard output is one of them, whose lines name the `stage` if there is one.
///
/// # Errors
/// If a file cannot be opened, or a tracker is not supported.
pub(super) fn reporter(
    (run, config): (&RunDir, &RunConfig),
    step: u64,
    (verbosity, json, stage): (Verbosity, bool, Option<&str>),
    whereabouts: Whereabouts,
) -> Result<Reporter> {
    let metrics = run.path().join("metrics.jsonl");
    let jsonl = if step > 0 { Jsonl::resume(metrics, step)? } else { Jsonl::create(metrics)? };
    // Where a signal would strike is known before the line that says so is printed.
    let reporter = Reporter::new().with(whereabouts).with(Console::stderr(verbosity));
    let lines = json.then(|| Lines::new(std::io::stdout()).of_stage(stage));
    let reporter = match lines {
        Some(lines) => reporter.with(lines),
        None => reporter,
    };
    let journal = Journal::open(&run.path().join("warnings.jsonl"), step)?;
    let samples = SampleLog::open(&run.path().join("samples.jsonl"), step)?;
    let held_out = HeldOutFile::open(&run.path().join("held_out.json"), step)?;
    let reporter = reporter.with(jsonl).with(journal).with(samples).with(held_out);
    let reporter = reporter.with(TensorBoard::create(run.path())?);
    trackers(reporter, (run, config), step)
}

/// Checks the trackers that the configuration names, before the run has a directory.
pub(super) fn check_trackers(config: &RunConfig) -> Result<()> {
    config.train.report_to.iter().try_for_each(|name| check_tracker(*name))
}

/// Adds the trackers that the configuration names.
fn trackers(mut reporter: Reporter, (run, config): (&RunDir, &RunConfig), step: u64) -> Result<Reporter> {
    for name in &config.train.report_to {
        let named = run.path().file_name().map(|name| name.to_string_lossy().into_owned());
        let described = Described {
            name: config.train.run_name.clone().or(named).unwrap_or_else(|| "run".into()),
            directory: run.path().to_path_buf(),
            settings: settings(&config.to_yaml()?),
            resumed: (step > 0).then_some(step),
        };
        reporter = reporter.with_boxed(open_tracker(*name, described)?);
    }
    Ok(reporter)
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
    trainer.room().iter().for_each(|warning| reporter.warn(warning));
    if decoder.device_description().is_some_and(|(_, kind)| kind == "f32") {
        reporter.note(
            "the GPU computes these weights in f32, which is several times slower than bf16; model.dtype: bf16 rounds them",
        );
    }
}
