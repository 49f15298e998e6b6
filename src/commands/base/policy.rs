//! A base with an adapter.

use super::{Base, set_threads};
use crate::cli::{ModelArgs, RuntimeArgs};
use crate::data::ChatTokenizer;
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
    let tokenizer = base.tokenizer(None)?;
    Ok(Policy { base, tokenizer, decoder })
}
