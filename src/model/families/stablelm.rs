//! StableLM: Llama with layer norms and a partial rotary embedding.

use super::common;
use super::json::ConfigJson;
use super::unsupported;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, NormKind};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    if config.flag("qk_layernorm", false)? {
        return Err(unsupported(
            config,
            "qk_layernorm",
            "StableLM 2 12B's norms per head are not written yet",
        ));
    }
    common::each_norm(&mut spec, |norm| norm.kind = NormKind::Layer);
    if config.flag("use_qkv_bias", false)? {
        common::attention_bias(&mut spec, false);
    }
    if config.flag("use_parallel_residual", false)? {
        for layer in &mut spec.layers {
            layer.parallel = true;
            layer.mlp_norm = None;
        }
    }
    Ok(spec)
}
