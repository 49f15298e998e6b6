//! A base with an adapter.

use super::{Base, TrainedWith, set_threads};
use crate::cli::{ModelArgs, RuntimeArgs};
use crate::config::RunConfig;
use crate::data::{ChatTokenizer, template};
use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::model::lora::Lora;

/// A base with its policy: what score, eval and generate work with.
pub struct Policy {
    /// The base.
    pub base: Base,
    /// Its tokenizer.
    pub tokenizer: ChatTokenizer,
    /// Base and adapter; the reference is the base alone.
    pub decoder: Decoder,
    /// How the adapter was trained.
    pub trained: TrainedWith,
}

/// Opens a base and its adapters, stacked into one.
///
/// # Errors
/// As [`Base::open`] and [`Base::adapter`].
pub fn open_policy(args: &ModelArgs) -> Result<Policy> {
    let RuntimeArgs { dtype, load_in_4bit, device, threads } = args.runtime;
    set_threads(threads)?;
    let base = Base::open_with(&args.base, dtype, device, args.force)?.in_4bit(load_in_4bit)?;
    let mut decoder = base.decoder()?;
    let adapters =
        args.adapter.iter().map(|path| base.adapter(path, args.force)).collect::<Result<Vec<_>>>()?;
    decoder.trained = match adapters.len() {
        0 => None,
        _ => Some(Lora::stacked(&adapters, &base.device)?),
    };
    let trained = trained_with(args)?;
    let tokenizer = base.tokenizer(trained.data.chat_template.as_deref())?;
    let tokenizer = match &trained.data.chat_template_date {
        Some(date) => tokenizer.on(date)?,
        None => tokenizer,
    };
    Ok(Policy { base, tokenizer, decoder, trained })
}

/// How the policy was trained: what `--config` says, else the metadata of the first adapter; with `--chat-template` in place
/// of its template.
fn trained_with(args: &ModelArgs) -> Result<TrainedWith> {
    let mut trained = match (&args.config, args.adapter.first()) {
        (Some(config), _) => TrainedWith::configured(&RunConfig::from_file(config, &[])?)?,
        (None, Some(adapter)) => TrainedWith::of(adapter)?,
        (None, None) => TrainedWith::default(),
    };
    if let Some(template) = &args.chat_template {
        trained.data.chat_template = Some(template::from_setting(template)?);
    }
    Ok(trained)
}
