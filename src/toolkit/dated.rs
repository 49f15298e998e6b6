//! Chat templates that print today's date: a run keeps the day it began on, or its tokens would change overnight.

use serde_yaml::Value;

use crate::config::RunConfig;
use crate::data::ChatTokenizer;
use crate::error::Result;
use crate::train::checkpoint;

/// Returns the tokenizer at the date that the configuration names, or on resume at that of the run. The date becomes a
/// part of the configuration if the template asks for it.
///
/// # Errors
/// If the value is not a date.
pub(super) fn tokenizer(
    tokenizer: ChatTokenizer,
    config: &mut RunConfig,
    resume: bool,
) -> Result<ChatTokenizer> {
    let asks = tokenizer.template().is_some_and(|template| template.date().is_some());
    if resume && asks {
        date_of_run(config);
    }
    let tokenizer = tokenizer.on(config.data.chat_template_date.as_deref())?;
    if config.data.chat_template_date.is_none() {
        config.data.chat_template_date = tokenizer.template().and_then(|template| template.date());
    }
    Ok(tokenizer)
}

/// Adds the date of the run that a run directory holds, if it has one and the configuration does not.
pub fn date_of_run(config: &mut RunConfig) {
    if config.data.chat_template_date.is_none() {
        config.data.chat_template_date = of_run(config);
    }
}

/// Returns the date in the run directory's configuration, or else in its newest checkpoint.
fn of_run(config: &RunConfig) -> Option<String> {
    let date = |yaml: &str| -> Option<String> {
        let yaml: Value = serde_yaml::from_str(yaml).ok()?;
        Some(yaml.get("data")?.get("chat_template_date")?.as_str()?.to_string())
    };
    let written = std::fs::read_to_string(config.output_dir.join("config.yaml")).ok();
    let kept = || date(&checkpoint::newest(&config.output_dir).0?.1.config);
    written.as_deref().and_then(date).or_else(kept)
}
