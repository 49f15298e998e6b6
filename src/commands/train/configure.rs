//! The configuration of a run, from its file, its flags and its `--set`s.

use serde::Serialize;

use crate::cli::TrainArgs;
use crate::config::{Recipe, RunConfig};
use crate::error::{Error, Problems, Result};
use crate::toolkit::embedded;
use crate::train::run_dir;

/// What is named as the origin of settings that stand in no file.
const COMMAND_LINE: &str = "the command line";

/// Reads the configuration file, or takes the defaults where `--base` and `--data` are given, else the embedded
/// quickstart; flags and `--set` override it. Without a file and without a directory by name, the run gets a
/// directory that is not used yet, and `--resume` the one that was used last.
///
/// # Errors
/// [`Error::Config`] naming every invalid setting; a flag and a `--set` of the same key; `--base` without `--data`, and
/// the other way round.
pub(super) fn recipe(args: &TrainArgs) -> Result<Recipe> {
    let overrides = overrides(args)?;
    let mut config = match &args.config {
        Some(path) => return Recipe::from_file(path, &overrides),
        None if is_quickstart(args) => {
            RunConfig::from_yaml(embedded::QUICKSTART, "the embedded quickstart", &overrides)?
        }
        None => {
            both_given(args)?;
            RunConfig::from_yaml("", COMMAND_LINE, &overrides)?
        }
    };
    if !args.overwrite && !is_set(&overrides, "output_dir") {
        let directory = if args.resume { run_dir::last_used } else { run_dir::numbered };
        config.output_dir = directory(&config.output_dir);
    }
    Ok(Recipe::Single(Box::new(config)))
}

/// Whether the embedded quickstart is what is trained.
pub(super) fn is_quickstart(args: &TrainArgs) -> bool {
    args.config.is_none() && args.settings.base.is_none() && args.settings.data.is_empty()
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

/// The flags as overrides, then the `--set`s.
fn overrides(args: &TrainArgs) -> Result<Vec<String>> {
    let mut problems = Problems::default();
    let mut overrides = Vec::new();
    for (flag, key, value) in flags(args)? {
        problems.require(!is_set(&args.overrides, key), || {
            format!("{flag} and --set {key} set the same key; leave one of them out")
        });
        overrides.push(format!("{key}={value}"));
    }
    problems.finish()?;
    overrides.extend(args.overrides.iter().cloned());
    Ok(overrides)
}

/// Every flag that is given, with its key and its value as YAML.
fn flags(args: &TrainArgs) -> Result<Vec<(&'static str, &'static str, String)>> {
    let given = &args.settings;
    let mut flags = Vec::new();
    let mut add = |flag, key, value: Option<String>| flags.extend(value.map(|value| (flag, key, value)));
    add("--base", "model.base", given.base.as_ref().map(json).transpose()?);
    add("--data", "data.train", one_or_many(&given.data)?);
    add("--eval-data", "data.eval", given.eval_data.as_deref().map(share_or_source).transpose()?);
    add("--output", "output_dir", given.output.as_ref().map(json).transpose()?);
    add("--loss", "objective.loss_type", one_or_many(&given.loss)?);
    add("--beta", "objective.beta", given.beta.as_ref().map(json).transpose()?);
    add("--learning-rate", "train.learning_rate", given.learning_rate.as_ref().map(json).transpose()?);
    add("--epochs", "train.num_train_epochs", given.epochs.as_ref().map(json).transpose()?);
    Ok(flags)
}

/// JSON is YAML, in which a glob's `*` and a name such as `1e5` are quoted.
fn json(value: &(impl Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Config(format!("{COMMAND_LINE}: {error}")))
}

fn one_or_many(values: &[String]) -> Result<Option<String>> {
    match values {
        [] => Ok(None),
        [one] => json(one).map(Some),
        many => json(many).map(Some),
    }
}

/// A number is a share of the training data to hold out, anything else a source.
fn share_or_source(text: &str) -> Result<String> {
    text.parse::<f64>().map_or_else(|_| json(text), |share| json(&share))
}

/// Whether `key=...` is among the overrides.
fn is_set(overrides: &[String], key: &str) -> bool {
    overrides.iter().any(|setting| setting.split('=').next().is_some_and(|name| name.trim() == key))
}
