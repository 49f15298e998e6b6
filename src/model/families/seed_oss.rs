//! Seed-OSS: Llama with biases on queries, keys and values, and optionally on others.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    common::qkv_bias(&mut spec, config.flag("attention_bias")?);
    common::output_bias(&mut spec, config.flag("attention_out_bias")?);
    common::mlp_bias(&mut spec, config.flag("mlp_bias")?);
    Ok(spec)
}
