//! Which configuration a run has: a file, that of a run directory, or the embedded quickstart.

use std::path::Path;

use crate::cli::TrainArgs;
use crate::config::RunConfig;
use crate::data::EvalSource;
use crate::error::{Error, Result};
use crate::files::shell_word;
use crate::toolkit::embedded;
use crate::train::run_dir::{self, Opening};

/// Reads the configuration that the arguments ask for.
///
/// # Errors
/// If it is missing or invalid, or if there is nothing to resume.
pub(super) fn configure(args: &TrainArgs) -> Result<RunConfig> {
    if let Some(stray) = &args.stray {
        let shown = shell_word(stray);
        return Err(Error::Config(format!(
            "the argument {shown} is unexpected; write `dpo-lora train -c {shown}` for a configuration, or \
             `dpo-lora train --resume {shown}` for a run directory"
        )));
    }
    if let Some(Some(directory)) = &args.resume {
        return of_run(directory, args);
    }
    let config = match &args.config {
        Some(path) => RunConfig::from_file(path, &args.overrides)?,
        None => RunConfig::from_yaml(embedded::QUICKSTART, "the embedded quickstart", &args.overrides)?,
    };
    if let Some(path) = &args.config {
        check_beside(&config, path)?;
    }
    match opening(args) {
        Opening::Resume => run_dir::check_begun(&config.output_dir)?,
        Opening::Fresh if args.config.is_none() && !names_output(args) => {
            let output_dir = run_dir::numbered(&config.output_dir);
            return Ok(RunConfig { output_dir, ..config });
        }
        _ => {}
    }
    Ok(config)
}

/// What is done with a run directory that is used already.
pub(super) fn opening(args: &TrainArgs) -> Opening {
    match (&args.resume, args.auto_resume, args.overwrite) {
        (Some(_), ..) => Opening::Resume,
        (_, true, _) => Opening::ResumeOrStart,
        (.., true) => Opening::Overwrite,
        _ => Opening::Fresh,
    }
}

fn names_output(args: &TrainArgs) -> bool {
    args.overrides.iter().any(|o| o.trim_start().starts_with("output_dir"))
}

/// The configuration that a run directory keeps.
fn of_run(directory: &Path, args: &TrainArgs) -> Result<RunConfig> {
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
        return Err(Error::Config(format!(
            "{shown} is a checkpoint; name its run directory: `dpo-lora train --resume {}` continues from the newest one",
            shell_word(run)
        )));
    }
    run_dir::check_begun(directory)?;
    let path = directory.join("config.yaml");
    if !path.is_file() {
        return Err(Error::Config(format!(
            "{shown} holds no config.yaml; name the configuration: `dpo-lora train -c FILE --resume --set output_dir={shown}`"
        )));
    }
    let config = RunConfig::from_file(&path, &args.overrides)?;
    if names_output(args) {
        return Ok(config);
    }
    // The directory may have been moved since.
    Ok(RunConfig { output_dir: directory.to_path_buf(), ..config })
}

/// Paths are relative to the working directory. One that is missing there but exists beside the configuration is an error
/// that says so.
fn check_beside(config: &RunConfig, file: &Path) -> Result<()> {
    let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    let mut named = vec![("model.base", config.model.base.clone())];
    let path = |path: &std::path::PathBuf| path.display().to_string();
    named.extend(config.model.adapter.iter().map(|adapter| ("model.adapter", path(adapter))));
    named.extend(config.lora.init_from.iter().map(|adapter| ("lora.init_from", path(adapter))));
    named.extend(config.data.train.0.iter().map(|source| ("data.train", source.path().to_string())));
    if let Some(EvalSource::Sources(sources)) = &config.data.eval {
        named.extend(sources.0.iter().map(|source| ("data.eval", source.path().to_string())));
    }
    for (key, name) in named {
        let beside = directory.join(&name);
        if Path::new(&name).is_relative() && !Path::new(&name).exists() && beside.exists() {
            return Err(Error::Config(format!(
                "{}: {key} is {name}, which does not exist in the working directory; {} does. Relative paths are relative to \
                 the working directory: write {key}: {}, or run the command in {}",
                file.display(),
                beside.display(),
                beside.display(),
                directory.display()
            )));
        }
    }
    Ok(())
}
