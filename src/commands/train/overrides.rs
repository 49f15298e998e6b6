//! The flags of `train` that set a key of the configuration, and `--set`.

use serde::Serialize;

use crate::cli::TrainArgs;
use crate::config::Recipe;
use crate::error::{Error, Problems, Result};
use crate::toolkit::embedded;

/// What is named as the origin of settings that stand in no file.
pub(super) const COMMAND_LINE: &str = "the command line";

/// The flags as overrides, then the `--set`s, for the embedded quickstart or for another run.
pub(super) fn overrides(args: &TrainArgs, is_quickstart: bool) -> Result<Vec<String>> {
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
    if let Some(idle) = idle_epochs(args, is_quickstart, &overrides) {
        log::warn!("{idle}");
    }
    Ok(overrides)
}

/// A warning of `--epochs` beside a number of steps, which decides how long the run is.
fn idle_epochs(args: &TrainArgs, is_quickstart: bool, overrides: &[String]) -> Option<String> {
    let epochs = args.settings.epochs?;
    // What is wrong with a configuration is told when it is read to be used.
    let recipe = match (&args.resume, &args.config) {
        (Some(Some(run)), _) => Recipe::from_file(run.join("config.yaml"), overrides),
        (_, Some(path)) => Recipe::from_file(path, overrides),
        _ if is_quickstart => Recipe::from_yaml(embedded::QUICKSTART, COMMAND_LINE, overrides),
        _ => Recipe::from_yaml("", COMMAND_LINE, overrides),
    };
    let mut recipe = recipe.ok()?;
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
pub(super) fn json(value: &(impl Serialize + ?Sized)) -> Result<String> {
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
    match text.parse::<f64>() {
        // JSON has no other numbers, and `nan` may be a file.
        Ok(share) if share.is_finite() => json(&share),
        _ => json(text),
    }
}

/// Whether `key=...` is among the overrides.
pub(super) fn is_set(overrides: &[String], key: &str) -> bool {
    overrides.iter().any(|setting| setting.split('=').next().is_some_and(|name| name.trim() == key))
}
