//! What the arguments name, opened.

use std::path::Path;

use crate::cli::DataArgs;
use crate::config::{Recipe, RunConfig};
use crate::data::{ChatTokenizer, Sources};
use crate::error::{Error, Result};
use crate::files::Guard;
use crate::toolkit::stream::Stream;
use crate::toolkit::{Base, OpenOptions};

/// The configuration in a file, or the defaults, with these data to train on if any are named.
pub(super) fn named(files: &[String], config: Option<&Path>) -> Result<RunConfig> {
    let sources: Sources = files.iter().cloned().collect();
    let mut config = match config {
        Some(path) => Recipe::from_file(path, &[])?.into_last()?,
        None => RunConfig::new("", sources.clone()),
    };
    if !files.is_empty() {
        config.data.train = sources;
    }
    Ok(config)
}

/// The configuration of a run on these data. Without a base its name is empty.
pub(super) fn configure(args: &DataArgs) -> Result<RunConfig> {
    let mut config = named(&args.files, args.config.as_deref())?;
    if let Some(base) = &args.base {
        config.model.base.clone_from(base);
    }
    if config.model.base.is_empty() && (args.max_length.is_some() || args.chat_template.is_some()) {
        return Err(Error::Config(
            "--max-length and --chat-template are of tokens; name the base whose tokens they are (--base)"
                .into(),
        ));
    }
    config.data.max_length = args.max_length.or(config.data.max_length);
    config.data.chat_template = args.chat_template.clone().or(config.data.chat_template);
    config.data.validate()?;
    Ok(config)
}

/// The base, if one is named.
pub(super) fn base(config: &RunConfig) -> Result<Option<Base>> {
    let model = &config.model;
    if model.base.is_empty() {
        return Ok(None);
    }
    let options =
        OpenOptions { dtype: model.dtype, load_in_4bit: model.load_in_4bit, ..OpenOptions::on_cpu() };
    Base::open_with(&model.base, &options).map(Some)
}

/// The tokenizer of a run.
pub(super) fn tokenizer(config: &RunConfig, base: &Base) -> Result<ChatTokenizer> {
    let tokenizer = base.tokenizer(config.data.chat_template.as_deref())?;
    tokenizer.on(config.data.chat_template_date.as_deref())
}

/// What a command reads: the files of the data, and the configuration if one is named.
pub(super) fn inputs(stream: &Stream, config: Option<&Path>) -> Guard {
    let mut inputs = Guard::default();
    stream.files().for_each(|file| inputs.add("one of the inputs", file));
    config.iter().for_each(|config| inputs.add("the configuration", config));
    inputs
}
