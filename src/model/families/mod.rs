//! The families: each file turns a `config.json` into a [`DecoderSpec`] and the names of its modules.
//!
//! To add one: a file with `pub fn spec(&ConfigJson) -> Result<DecoderSpec>`, a line in `FAMILIES`, a fixture under
//! `tests/fixtures/models`.

mod common;
mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod gptj;
mod granite;
mod json;
mod llama;
mod mistral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod rotation;
mod smollm3;
mod stablelm;

pub use json::ConfigJson;

use super::spec::DecoderSpec;
use crate::error::{Error, Result, nearest};

type Family = fn(&ConfigJson) -> Result<DecoderSpec>;

/// `model_type` → its family.
const FAMILIES: &[(&str, Family)] = &[
    ("gemma", gemma::spec),
    ("gemma2", gemma2::spec),
    ("gemma3_text", gemma3::spec),
    ("gpt2", gpt2::spec),
    ("gpt_neox", gpt_neox::spec),
    ("gptj", gptj::spec),
    ("granite", granite::spec),
    ("llama", llama::spec),
    ("mistral", mistral::spec),
    ("olmo2", olmo2::spec),
    ("phi3", phi3::spec),
    ("qwen2", qwen2::spec),
    ("qwen3", qwen3::spec),
    ("smollm3", smollm3::spec),
    ("stablelm", stablelm::spec),
];

/// The decoder that a `config.json` describes.
///
/// # Errors
/// If its `model_type` is unknown (the known ones are named), a key is missing or has a wrong value, or it asks for
/// what is not supported.
pub fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let model_type = config.string("model_type")?;
    let known = FAMILIES.iter().map(|(name, _)| *name);
    match FAMILIES.iter().find(|(name, _)| *name == model_type) {
        Some((_, family)) => {
            config.check_sizes()?;
            let spec = family(config)?;
            common::check(config, &spec)?;
            Ok(spec)
        }
        None => {
            let hint = nearest(&model_type, known.clone()).map_or(String::new(), |n| format!("; is it {n}?"));
            let known: Vec<_> = known.collect();
            Err(config.error(
                "model_type",
                &format!("{model_type:?} is not supported{hint} Known: {}", known.join(", ")),
            ))
        }
    }
}

/// An error for something a family's file cannot honour.
fn unsupported(config: &ConfigJson, key: &str, why: &str) -> Error {
    config.error(key, &format!("is not supported: {why}"))
}
