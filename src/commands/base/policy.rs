//! A base with an adapter.

use super::{Base, set_threads};
use crate::cli::{ModelArgs, RuntimeArgs};
use crate::data::ChatTokenizer;
use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::trainable::{Adapters, Policy};

/// A base with its adapters: what score, eval and generate work with.
pub struct Adapted {
    /// The base.
    pub base: Base,
    /// Its tokenizer.
    pub tokenizer: ChatTokenizer,
    /// The base, ready to compute.
    pub decoder: Decoder,
    /// Its adapter; the reference is the base alone.
    pub policy: Policy,
}

/// Opens a base and its adapters, stacked into one.
///
/// # Errors
/// As [`Base::open`] and [`Base::adapter`].
pub fn open_policy(args: &ModelArgs) -> Result<Adapted> {
    let RuntimeArgs { dtype, load_in_4bit, device, threads } = args.runtime;
    set_threads(threads)?;
    let base = Base::open_with(&args.base, dtype, device, args.force)?.in_4bit(load_in_4bit)?;
    let decoder = base.decoder()?;
    let adapters =
        args.adapter.iter().map(|path| base.adapter(path, args.force)).collect::<Result<Vec<_>>>()?;
    let policy = Policy::of(Adapters::stacked(&adapters)?);
    let tokenizer = base.tokenizer(None)?;
    Ok(Adapted { base, tokenizer, decoder, policy })
}
