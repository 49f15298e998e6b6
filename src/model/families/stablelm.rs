//! StableLM: Llama with layer norms and a partial rotary embedding.

use super::common;
use super::common::unsupported;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, NormKind};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_sizes(config, "layer_norm_eps")?;
    common::rotate(config, &mut spec, &super::rotation::PARTLY)?;
    if config.flag("qk_layernorm")? {
        return Err(unsupported(
            config,
            "qk_layernorm",
            "StableLM 2 12B's norms per head are not supported yet",
        ));
    }
    common::each_norm(&mut spec, |norm| norm.kind = NormKind::Layer);
    common::qkv_bias(&mut spec, config.flag("use_qkv_bias")?);
    if config.flag("use_parallel_residual")? {
        for layer in &mut spec.layers {
            layer.parallel = true;
            layer.mlp_norm = None;
        }
    }
    Ok(spec)
}
