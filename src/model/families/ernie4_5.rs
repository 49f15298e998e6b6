//! ERNIE 4.5, dense: Llama with rotation of neighbouring features.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    common::interleave(&mut spec);
    config.accept(&[("compression_ratio", 1.0.into())]);
    let bias = config.flag("use_bias")?;
    common::qkv_bias(&mut spec, bias);
    common::output_bias(&mut spec, bias);
    common::mlp_bias(&mut spec, bias);
    Ok(spec)
}
