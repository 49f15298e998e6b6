//! Model families: each file turns a `config.json` into a [`DecoderSpec`] and the names of its modules.
//!
//! Missing keys take the defaults of transformers' class (`defaults.json`), and a key that no family reads is refused.
//! To add a family, add a file with `pub fn spec(&ConfigJson) -> Result<DecoderSpec>`, a line in `FAMILIES`, the class
//! in `tests/parity/family_defaults.py`, and a fixture under `tests/fixtures/models`.

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
use crate::error::Result;
use Family::{Text, Wrapped};
use class::Class;
use wrapped::Wrapper;

/// How a `config.json` describes a decoder.
enum Family {
    /// The whole file describes it.
    Text(fn(&ConfigJson) -> Result<DecoderSpec>),
    /// A part of the file, which belongs to another family, describes it.
    Wrapped(&'static Wrapper),
}

/// Maps each `model_type` to its family.
const FAMILIES: &[(&str, Family)] = &[
    ("arcee", Text(arcee::spec)),
    ("cohere", Text(cohere::cohere)),
    ("cohere2", Text(cohere::cohere2)),
    ("ernie4_5", Text(ernie4_5::spec)),
    ("exaone4", Text(exaone4::spec)),
    ("falcon", Text(falcon::spec)),
    ("gemma", Text(gemma::spec)),
    ("gemma2", Text(gemma2::spec)),
    ("gemma3", Wrapped(&wrapped::GEMMA3)),
    ("gemma3_text", Text(gemma3::spec)),
    ("glm", Text(glm::glm)),
    ("glm4", Text(glm::glm4)),
    ("gpt2", Text(gpt2::spec)),
    ("gpt_neox", Text(gpt_neox::spec)),
    ("gptj", Text(gptj::spec)),
    ("granite", Text(granite::spec)),
    ("helium", Text(helium::spec)),
    ("hunyuan_v1_dense", Text(hunyuan::spec)),
    ("llama", Text(llama::spec)),
    ("ministral3", Text(ministral3::spec)),
    ("mistral", Text(mistral::spec)),
    ("mistral3", Wrapped(&wrapped::MISTRAL3)),
    ("nemotron", Text(nemotron::spec)),
    ("olmo", Text(olmo::spec)),
    ("olmo2", Text(olmo2::spec)),
    ("olmo3", Text(olmo3::spec)),
    ("opt", Text(opt::spec)),
    ("phi3", Text(phi3::spec)),
    ("qwen2", Text(qwen2::spec)),
    ("qwen2_5_vl", Wrapped(&wrapped::QWEN_VL)),
    ("qwen2_5_vl_text", Text(qwen2::vl_text)),
    ("qwen3", Text(qwen3::spec)),
    ("qwen3_vl", Wrapped(&wrapped::QWEN_VL)),
    ("qwen3_vl_text", Text(qwen3::vl_text)),
    ("seed_oss", Text(seed_oss::spec)),
    ("smollm3", Text(smollm3::spec)),
    ("stablelm", Text(stablelm::spec)),
    ("starcoder2", Text(starcoder2::spec)),
];

/// Returns the decoder described by a `config.json`.
///
/// # Errors
/// If its `model_type` is not supported, a key is missing, has a wrong value or requests something unsupported, or a
/// key that could change what the model computes is not understood.
pub fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    refused::check_quantization(config)?;
    let model_type = config.string("model_type")?;
    let known = FAMILIES.iter().map(|(name, _)| *name);
    let (Some(family), Some(class)) = (family(&model_type), Class::of(&model_type)) else {
        return Err(config.error("model_type", &refused::why(config, &model_type, known)));
    };
    refused::check_architectures(config, &model_type, known)?;
    let config = &config.clone().with_class(class);
    config.check_types()?;
    config.check_sizes()?;
    let mut spec = family.spec(config)?;
    common::stretch(&mut spec);
    common::check(config, &spec)?;
    config.check_all_read()?;
    Ok(spec)
}

fn family(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|(name, _)| *name == model_type).map(|(_, family)| family)
}

impl Family {
    fn spec(&self, config: &ConfigJson) -> Result<DecoderSpec> {
        let wrapper = match self {
            Text(spec) => return spec(config),
            Wrapped(wrapper) => wrapper,
        };
        let (text, model_type) = wrapper.text(config)?;
        let Some(family) = family(&model_type) else {
            let why = format!("is {model_type:?}, which is not supported as the text part");
            return Err(config.error("text_config.model_type", &why));
        };
        wrapper.around(config, &text, family.spec(&text)?)
    }
}

#[cfg(test)]
mod tests;
