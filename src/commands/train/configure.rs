//! The configuration of a run, from its file, its flags and its `--set`s.

use std::path::PathBuf;

use super::beside;
use super::overrides::{COMMAND_LINE, is_set, overrides};
use super::resumed::{is_resuming, of_run, opening};
use crate::cli::TrainArgs;
use crate::config::{Recipe, RunConfig};
use crate::error::{Error, Problems, Result};
use crate::files::shell_word;
use crate::toolkit::embedded;
use crate::train::run_dir::{self, Opening};

/// Reads the configuration file, or takes the defaults where `--base` and `--data` are given, else the embedded
/// quickstart; flags and `--set` override it. Without a file and without a directory by name, the run gets a
/// directory that is not used yet, and `--resume` the one that was used last.
///
/// # Errors
/// [`Error::Config`] naming every invalid setting; a flag and a `--set` of the same key; `--base` without `--data`, and
/// the other way round.
pub(in crate::commands) fn recipe(args: &TrainArgs) -> Result<Recipe> {
    refuse_stray(args)?;
    let mut recipe = read(args)?;
    if opening(args) == Opening::Overwrite {
        check_overwritten(&recipe)?;
    }
    if let Some(idle) = args.settings.epochs.and_then(|epochs| idle_epochs(epochs, &mut recipe)) {
        log::warn!("{idle}");
    }
    // What a run was begun with stays as it is.
    if !is_resuming(args) || !run_dir::is_run(recipe.output_dir()) {
        let place = args.config.as_ref().map_or(COMMAND_LINE.into(), |path| path.display().to_string());
        for config in recipe.configs_mut() {
            config.check_idle().map_err(|error| Error::Config(format!("{place}: {error}")))?;
        }
    }
    Ok(recipe)
}

/// Refuses to remove with an earlier run what this one reads. A later stage reads the adapters of those before it.
fn check_overwritten(recipe: &Recipe) -> Result<()> {
    match recipe {
        Recipe::Single(config) => {
            run_dir::check_overwritten(std::slice::from_ref(&config.output_dir), &**config, &[])
        }
        Recipe::Staged(staged) => {
            let stages = staged.stages.iter().map(|stage| stage.config.output_dir.clone());
            let runs: Vec<PathBuf> = std::iter::once(staged.output_dir.clone()).chain(stages).collect();
            let mut made = Vec::new();
            for stage in &staged.stages {
                run_dir::check_overwritten(&runs, &stage.config, &made)?;
                made.push(stage.config.output_dir.join("adapter"));
            }
            Ok(())
        }
    }
}

/// A warning of `--epochs` beside a number of steps, which decides how long the run is.
fn idle_epochs(epochs: impl std::fmt::Display, recipe: &mut Recipe) -> Option<String> {
    let steps: Option<Vec<u64>> = recipe.configs_mut().iter().map(|config| config.train.max_steps).collect();
    let steps = steps?;
    let first = steps.first()?;
    let decides = if steps.iter().all(|other| other == first) {
        format!("is {first}, which decides how long the run is")
    } else {
        "is set for every stage, which decides how long each of them is".into()
    };
    Some(format!(
        "--epochs {epochs} has no effect: train.max_steps {decides}; leave --epochs out, or add --set train.max_steps=null"
    ))
}

/// Reads the configuration, wherever it stands.
fn read(args: &TrainArgs) -> Result<Recipe> {
    let overrides = overrides(args)?;
    if let Some(Some(directory)) = &args.resume {
        return of_run(directory, args, overrides);
    }
    let resumes = matches!(opening(args), Opening::Resume);
    let mut config = match &args.config {
        Some(path) => {
            let recipe = Recipe::from_file(path, &overrides)?;
            beside::check(&recipe, path)?;
            if resumes {
                run_dir::check_begun(recipe.output_dir())?;
            }
            return Ok(recipe);
        }
        None if is_quickstart(args) => {
            RunConfig::from_yaml(embedded::QUICKSTART, "the embedded quickstart", &overrides)?
        }
        None => {
            both_given(args)?;
            RunConfig::from_yaml("", COMMAND_LINE, &overrides)?
        }
    };
    if !args.overwrite && !is_set(&overrides, "output_dir") {
        let directory = if is_resuming(args) { run_dir::last_used } else { run_dir::numbered };
        config.output_dir = directory(&config.output_dir);
    }
    if resumes {
        run_dir::check_begun(&config.output_dir)?;
    }
    Ok(Recipe::Single(Box::new(config)))
}

/// Whether the run takes the next directory that no run has used: no directory is named.
pub(super) fn takes_next(args: &TrainArgs) -> bool {
    let is_named = args.settings.output.is_some() || is_set(&args.overrides, "output_dir");
    args.config.is_none() && !is_named && opening(args) == Opening::Fresh
}

/// Whether the embedded quickstart is what is trained. With another base and other data nothing is left of it.
pub(super) fn is_quickstart(args: &TrainArgs) -> bool {
    let named = args.config.is_some() || matches!(args.resume, Some(Some(_)));
    let is_other = is_set(&args.overrides, "model.base") && is_set(&args.overrides, "data.train");
    !named && !is_other && args.settings.base.is_none() && args.settings.data.is_empty()
}

/// Refuses a file that is named without the flag it belongs to.
fn refuse_stray(args: &TrainArgs) -> Result<()> {
    let Some(stray) = &args.stray else { return Ok(()) };
    let shown = shell_word(stray);
    Err(Error::Config(format!(
        "the argument {shown} is unexpected; write `dpo-lora train -c {shown}` for a configuration, or \
         `dpo-lora train --resume {shown}` for a run directory"
    )))
}

/// Checks that a run without a file has a base and data.
fn both_given(args: &TrainArgs) -> Result<()> {
    let mut problems = Problems::default();
    let has_base = args.settings.base.is_some() || is_set(&args.overrides, "model.base");
    problems.require(has_base, || {
        "--data is given without --base; name the model to train, a directory, a .gguf file or a Hub id, such as \
         --base Qwen/Qwen2.5-0.5B-Instruct"
            .into()
    });
    let has_data = !args.settings.data.is_empty() || is_set(&args.overrides, "data.train");
    problems.require(has_data, || {
        "--base is given without --data; name the records to train on, such as --data pairs.jsonl".into()
    });
    problems.finish()
}
