//! Llama 1, 2, 3, 3.1, 3.2 and models with the same architecture (SmolLM2, TinyLlama, ...).

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    common::whole_heads(config)?;
    let mut spec = common::llama_like(config)?;
    common::attention_bias(config, &mut spec)?;
    common::mlp_bias(&mut spec, config.flag("mlp_bias")?);
    Ok(spec)
}
