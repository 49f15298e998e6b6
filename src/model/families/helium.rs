//! Helium: Llama with rotation of neighbouring features.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    common::interleave(&mut spec);
    common::qkv_bias(&mut spec, config.flag("attention_bias")?);
    common::mlp_bias(&mut spec, config.flag("mlp_bias")?);
    Ok(spec)
}
