//! `dpo-lora train` with `stages`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use serde_json::Value;

use super::parts::{check_trackers, describe, form, open, profiled, reporter};
use super::resumed::{is_resuming, opening};
use super::{continued, summary, together};
use crate::cli::TrainArgs;
use crate::commands::output::{say, say_as_it_is};
use crate::commands::serve;
use crate::commands::signals;
use crate::commands::together as shared;
use crate::config::{Begins, Staged};
use crate::error::{Error, Result};
use crate::files;
use crate::ranks::Ranks;
use crate::report::{Reporter, Verbosity};
use crate::toolkit::stages::{
    Before, Planned, alone, conclude as write_result, hand_over, planned, with_shape,
};
use crate::toolkit::{Base, Inputs, Ready, Run, set_threads};
use crate::train::run_dir::{self, Opening, RunDir};

pub(super) fn run(staged: &Staged, ranks: &Ranks, args: &TrainArgs, verbosity: Verbosity) -> Result<()> {
    let (quiet, resuming) = (verbosity == Verbosity::Quiet, is_resuming(args));
    let Some(first) = staged.stages.first() else { return Ok(()) };
    together::set_patience(&first.config, ranks);
    set_threads(shared::threads(first.config.train.threads, ranks))?;
    staged.stages.iter().try_for_each(|stage| check_trackers(&stage.config))?;
    let base = ranks.once_per_machine(|| open(&first.config, args))?;
    let staged = &with_shape(staged, &base);
    let Some(first) = staged.stages.first() else { return Ok(()) };
    if ranks.is_first() {
        continued::check(args, &first.config, &staged.stages, &base)?;
    }
    let mut before = Before::on(ranks, staged, resuming)?;
    if args.dry_run && !ranks.is_first() {
        // Nothing is written: the adapters of finished stages may not be here.
        before = Before::of(staged, false)?;
    }
    if let Some(next) = staged.stages.get(before.next()).filter(|_| before.next() > 0 && !args.dry_run) {
        hand_over(ranks, staged, &next.config)?;
    }
    let planned = shared::read(ranks, || planned(ranks, staged, &base, (&before, resuming)))?;
    if args.dry_run {
        return match ranks.is_first() {
            true => describe_all(ranks, staged, planned, &base, quiet),
            false => Ok(()),
        };
    }
    let stop = Arc::new(AtomicU8::new(0));
    let directory = match ranks.is_first() {
        true => begun(staged, args, &stop)?,
        false => RunDir::of_another(&staged.output_dir),
    };
    let ended = train_all((staged, planned), &base, ranks, (args, verbosity), (directory.path(), &stop))?;
    if !ranks.is_first() {
        return Ok(());
    }
    let adapter = write_result(staged, &base)?;
    if args.json {
        // The last stage is never left out, so that its end is known.
        summary::conclude_stages(&ended, directory.path(), &adapter)?;
    }
    if !quiet {
        say(&format!("all stages are done; adapter: {}", adapter.display()));
        let last = staged.stages.last().unwrap_or(first);
        say(&summary::next(&last.config, &first.config.model.adapter, &base, &adapter));
    }
    Ok(())
}

/// Trains the stages that are not finished, one after the other. Returns the event of the end of the last one.
fn train_all(
    (staged, planned): (&Staged, Vec<Planned>),
    base: &Base,
    ranks: &Ranks,
    (args, verbosity): (&TrainArgs, Verbosity),
    (directory, stop): (&Path, &Arc<AtomicU8>),
) -> Result<Value> {
    let quiet = verbosity == Verbosity::Quiet;
    let mut ended = Value::Null;
    for (index, stage) in planned.into_iter().enumerate() {
        say_stage(staged, index, quiet);
        match stage.inputs {
            Some(inputs) => {
                hand_over(ranks, staged, &staged.stages[index].config)?;
                ended = train((stage.name.as_str(), inputs), base, ranks, (args, verbosity), stop)
                    .map_err(|error| of_all(error, directory))?;
            }
            None if !quiet => say(&format!("finished before; {}", stage.directory.join("adapter").display())),
            None => {}
        }
        let signal = together::signalled(ranks, stop)?;
        if signal != 0 && index + 1 < staged.stages.len() {
            let kept = format!("interrupted after stage {}", staged.stages[index].name);
            let run = files::shell_word(directory);
            return Err(Error::Interrupted { code: signal, kept, run });
        }
    }
    Ok(ended)
}

/// Opens the directory of the whole run, and writes what is asked for.
fn begun(staged: &Staged, args: &TrainArgs, stop: &Arc<AtomicU8>) -> Result<RunDir> {
    if opening(args) == Opening::Fresh {
        let stages = staged.stages.iter().map(|stage| &stage.config.output_dir);
        std::iter::once(&staged.output_dir).chain(stages).try_for_each(|path| run_dir::check_unused(path))?;
    }
    let directory = RunDir::open(&staged.output_dir, opening(args))?;
    signals::let_finish(stop, directory.path());
    let directories = staged.stages.iter().map(|stage| stage.config.output_dir.clone()).collect();
    args.serve.map(|at| serve::start(at, directories)).transpose()?;
    files::write_bytes(&directory.path().join("config.yaml"), staged.to_yaml()?.as_bytes())?;
    Ok(directory)
}

/// An interrupted stage continues with the whole run.
fn of_all(error: Error, directory: &Path) -> Error {
    match error {
        Error::Interrupted { code, kept, .. } => {
            Error::Interrupted { code, kept, run: files::shell_word(directory) }
        }
        other => other,
    }
}

/// Trains one stage to its end, and returns the event of its end.
fn train(
    (name, inputs): (&str, Inputs),
    base: &Base,
    ranks: &Ranks,
    (args, verbosity): (&TrainArgs, Verbosity),
    stop: &Arc<AtomicU8>,
) -> Result<Value> {
    let quiet = verbosity == Verbosity::Quiet;
    together::set_patience(&inputs.config, ranks);
    let run = ranks.once_per_machine(|| Run::on(ranks, inputs, base))?;
    if !ranks.is_first() {
        let directory = RunDir::of_another(&run.config.output_dir);
        let Ready { mut trainer, .. } = run.ready(&directory, stop.clone(), is_resuming(args))?;
        signals::let_all_finish(stop);
        return trainer.run(&mut Reporter::new()).map(|()| Value::Null);
    }
    let first = run.first_record(form())?.filter(|_| !quiet);
    // The directory of the whole run may be resumed, and this stage not have begun.
    let opening = if is_resuming(args) { Opening::ResumeOrStart } else { opening(args) };
    let directory = RunDir::open(&run.config.output_dir, opening)?;
    first.iter().for_each(|first| say_as_it_is(first));
    let course = run.course()?;
    let Ready { mut trainer, notes, config, .. } = run.ready(&directory, stop.clone(), is_resuming(args))?;
    let whereabouts = signals::let_finish(stop, directory.path());
    let to = (verbosity, args.json, Some(name));
    let mut reporter = reporter((&directory, &config), trainer.step(), to, whereabouts)?;
    notes.iter().for_each(|note| reporter.note(note));
    describe(&trainer, &course, &mut reporter);
    together::describe(&trainer, ranks, &mut reporter);
    let seconds = profiled(args.profile, &mut trainer, &mut reporter)?;
    let told = summary::Told { quiet, samples: false, json: args.json, stage: Some(name) };
    summary::conclude(&mut trainer, &config.objective.resolve()?, directory.path(), (seconds, told))
}

/// What each stage would do.
fn describe_all(
    ranks: &Ranks,
    staged: &Staged,
    planned: Vec<Planned>,
    base: &Base,
    quiet: bool,
) -> Result<()> {
    let mut finished = true;
    for (index, stage) in planned.into_iter().enumerate() {
        say_stage(staged, index, false);
        let Some(mut inputs) = stage.inputs else {
            say(&format!("finished before; {}", stage.directory.join("adapter").display()));
            continue;
        };
        // The adapters of earlier stages may not be there yet.
        let alone = alone(staged, index, &inputs.config, finished);
        finished = false;
        inputs.config.lora = alone.lora;
        inputs.config.model.adapter = alone.model.adapter;
        let run = Run::on(ranks, inputs, base)?;
        if let (Some(first), false) = (run.first_record(form())?, quiet) {
            say_as_it_is(&first);
        }
        say(&run.described()?);
    }
    Ok(())
}

/// Names a stage and what it begins with.
fn say_stage(staged: &Staged, index: usize, quiet: bool) {
    let stage = &staged.stages[index];
    let begins = match (index.checked_sub(1).map(|before| &staged.stages[before].name), stage.begins) {
        (None, _) => String::new(),
        (Some(before), Begins::Continue) => format!(", which continues the adapter of {before}"),
        (Some(before), Begins::Stack) => format!(", which trains a new adapter on top of {before}"),
    };
    if !quiet {
        let (number, all) = (index + 1, staged.stages.len());
        let losses = stage.config.objective.loss_type.join(" + ");
        say(&format!("stage {number} of {all}: {} ({losses}){begins}", stage.name));
    }
}
