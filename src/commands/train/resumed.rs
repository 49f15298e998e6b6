//! What `--resume`, `--auto-resume` and `--overwrite` do.

use std::path::Path;

use serde_yaml::Value;

use super::overrides::{is_set, json};
use crate::cli::TrainArgs;
use crate::config::Recipe;
use crate::error::{Error, Result};
use crate::files::shell_word;
use crate::train::run_dir::{self, Opening};

/// What is done with a run directory that is used already.
pub(super) fn opening(args: &TrainArgs) -> Opening {
    match (&args.resume, args.auto_resume, args.overwrite) {
        (Some(_), ..) => Opening::Resume,
        (_, true, _) => Opening::ResumeOrStart,
        (.., true) => Opening::Overwrite,
        _ => Opening::Fresh,
    }
}

/// Whether a run is continued if there is one.
pub(super) fn is_resuming(args: &TrainArgs) -> bool {
    matches!(opening(args), Opening::Resume | Opening::ResumeOrStart)
}

/// The configuration that a run directory keeps.
///
/// # Errors
/// If it is no run directory, or another configuration is named as well.
pub(super) fn of_run(directory: &Path, args: &TrainArgs, mut overrides: Vec<String>) -> Result<Recipe> {
    let shown = shell_word(directory);
    if args.config.is_some() {
        return Err(Error::Config(format!(
            "--resume {shown} takes the configuration of that run; leave out -c, or leave out the directory"
        )));
    }
    if directory.is_file() {
        return Err(Error::Config(format!(
            "{shown} is a file; --resume takes a run directory. To continue the run of a configuration write \
             `dpo-lora train -c {shown} --resume`"
        )));
    }
    let run = directory.parent().filter(|all| all.ends_with("checkpoints")).and_then(Path::parent);
    if let Some(run) = run {
        // `checkpoints/step-4` is named within the run directory.
        let run = if run.as_os_str().is_empty() { Path::new(".") } else { run };
        return Err(Error::Config(format!(
            "{shown} is a checkpoint; name its run directory: `dpo-lora train --resume {}` continues from the newest one",
            shell_word(run)
        )));
    }
    if let Some(whole) = run_dir::whole_of(directory) {
        return Err(Error::Config(format!(
            "{shown} is a stage of the run {}; continue all stages with: dpo-lora train --resume {}",
            whole.display(),
            shell_word(&whole)
        )));
    }
    run_dir::check_begun(directory)?;
    let path = directory.join("config.yaml");
    if !path.is_file() {
        return Err(Error::Config(format!(
            "{shown} holds no config.yaml; name the configuration: `dpo-lora train -c FILE --resume --set output_dir={shown}`"
        )));
    }
    if !is_set(&overrides, "output_dir") {
        // The directory may have been moved since.
        overrides.push(format!("output_dir={}", json(directory)?));
    }
    check_losses(&path, &overrides)?;
    Recipe::from_file(&path, &overrides)
}

/// Refuses another loss than that of the run, by name: the parameters that the run directory keeps are those of its own.
fn check_losses(path: &Path, overrides: &[String]) -> Result<()> {
    let key = "objective.loss_type";
    let mut settings = overrides.iter().rev().filter_map(|setting| setting.split_once('='));
    let asked = settings.find(|(name, _)| name.trim() == key);
    let asked = asked.and_then(|(_, value)| serde_yaml::from_str::<Value>(value).ok());
    let Some(asked) = asked else { return Ok(()) };
    let Recipe::Single(config) = Recipe::from_file(path, &[])? else { return Ok(()) };
    let names = match &asked {
        Value::Sequence(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>(),
        one => one.as_str().into_iter().collect(),
    };
    let was = &config.objective.loss_type;
    if names.is_empty() || names == *was {
        return Ok(());
    }
    Err(Error::Config(format!(
        "the run cannot be resumed with another configuration: {key} was {}, is {}. Set it back, or use --overwrite to start over",
        was.join(" + "),
        names.join(" + ")
    )))
}
