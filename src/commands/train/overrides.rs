//! The flags of `train` that set a key of the configuration, and `--set`.

use serde::Serialize;

use crate::cli::TrainArgs;
use crate::error::{Error, Problems, Result};

/// What is named as the origin of settings that stand in no file.
pub(super) const COMMAND_LINE: &str = "the command line";

/// The flags as overrides, then the `--set`s.
pub(super) fn overrides(args: &TrainArgs) -> Result<Vec<String>> {
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
