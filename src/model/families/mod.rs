//! The families: each file turns a `config.json` into a [`DecoderSpec`] and the names of its modules.
//!
//! What a file leaves out is what transformers' class takes (`defaults.json`), and a key that no family reads is refused.
//! To add one: a file with `pub fn spec(&ConfigJson) -> Result<DecoderSpec>`, a line in `FAMILIES`, the class in
//! `tests/parity/family_defaults.py`, a fixture under `tests/fixtures/models`.

mod arcee;
mod class;
mod cohere;
mod common;
mod ernie4_5;
mod exaone4;
mod falcon;
mod frequencies;
mod gemma;
mod gemma2;
mod gemma3;
mod glm;
mod gpt2;
mod gpt_neox;
mod gptj;
mod granite;
mod helium;
mod hunyuan;
mod json;
mod llama;
mod ministral3;
mod mistral;
mod nemotron;
mod olmo;
mod olmo2;
mod olmo3;
mod opt;
mod phi3;
mod qwen2;
mod qwen3;
mod refused;
mod rotation;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;
mod unread;
mod wrapped;

pub use json::ConfigJson;

use super::spec::DecoderSpec;
use crate::error::{Error, Result};
use class::Class;

type Family = fn(&ConfigJson) -> Result<DecoderSpec>;

/// `model_type` → its family.
const FAMILIES: &[(&str, Family)] = &[
    ("arcee", arcee::spec),
    ("cohere", cohere::cohere),
    ("cohere2", cohere::cohere2),
    ("ernie4_5", ernie4_5::spec),
    ("exaone4", exaone4::spec),
    ("falcon", falcon::spec),
    ("gemma", gemma::spec),
    ("gemma2", gemma2::spec),
    ("gemma3", wrapped::gemma3),
    ("gemma3_text", gemma3::spec),
    ("glm", glm::glm),
    ("glm4", glm::glm4),
    ("gpt2", gpt2::spec),
    ("gpt_neox", gpt_neox::spec),
    ("gptj", gptj::spec),
    ("granite", granite::spec),
    ("helium", helium::spec),
    ("hunyuan_v1_dense", hunyuan::spec),
    ("llama", llama::spec),
    ("ministral3", ministral3::spec),
    ("mistral", mistral::spec),
    ("mistral3", wrapped::mistral3),
    ("nemotron", nemotron::spec),
    ("olmo", olmo::spec),
    ("olmo2", olmo2::spec),
    ("olmo3", olmo3::spec),
    ("opt", opt::spec),
    ("phi3", phi3::spec),
    ("qwen2", qwen2::spec),
    ("qwen2_5_vl", wrapped::qwen_vl),
    ("qwen2_5_vl_text", qwen2::vl_text),
    ("qwen3", qwen3::spec),
    ("qwen3_vl", wrapped::qwen_vl),
    ("qwen3_vl_text", qwen3::vl_text),
    ("seed_oss", seed_oss::spec),
    ("smollm3", smollm3::spec),
    ("stablelm", stablelm::spec),
    ("starcoder2", starcoder2::spec),
];

/// The decoder that a `config.json` describes.
///
/// # Errors
/// If its `model_type` is not supported, a key is missing, has a wrong value or asks for what is not supported, or a key
/// that could change what the model computes is not understood.
pub fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    refused::check_quantization(config)?;
    let model_type = config.string("model_type")?;
    let family = FAMILIES.iter().find(|(name, _)| *name == model_type);
    let (Some((_, family)), Some(class)) = (family, Class::of(&model_type)) else {
        let known = FAMILIES.iter().map(|(name, _)| *name);
        return Err(config.error("model_type", &refused::why(config, &model_type, known)));
    };
    refused::check_architectures(config, &model_type)?;
    let config = &config.clone().with_class(class);
    config.check_types()?;
    config.check_sizes()?;
    let mut spec = family(config)?;
    common::stretch(&mut spec);
    common::check(config, &spec)?;
    config.check_all_read()?;
    Ok(spec)
}

/// An error for something a family's file cannot honour.
fn unsupported(config: &ConfigJson, key: &str, why: &str) -> Error {
    config.error(key, &format!("is not supported: {why}"))
}

#[cfg(test)]
mod tests;
