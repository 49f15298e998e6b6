//! Mistral: Llama with a sliding window in every layer.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    // transformers' class has no layer types; if the file lists them, it only warns.
    let sliding = common::layer_types(config, spec.layers.len(), |_| true)?;
    if sliding.contains(&false) {
        return Err(super::common::unsupported(
            config,
            "layer_types",
            "transformers' Mistral has a sliding window in every layer",
        ));
    }
    common::slide_all(config, &mut spec)?;
    Ok(spec)
}
