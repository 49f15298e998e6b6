//! GLM-4 (`glm`) and GLM-4-0414 (`glm4`): Llama in which half of each head is rotated in neighbouring pairs, and gate
//! and up projection are fused; `glm4` also has norms after both branches.

use super::common;
use super::json::ConfigJson;
use super::rotation::PARTLY;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, NormSpec};

pub(super) fn glm(config: &ConfigJson) -> Result<DecoderSpec> {
    // Null is not a valid number of heads here.
    config.size("num_key_value_heads")?;
    let mut spec = common::llama_sizes(config, "rms_norm_eps")?;
    common::rotate(config, &mut spec, &PARTLY)?;
    common::interleave(&mut spec);
    common::qkv_bias(&mut spec, config.flag("attention_bias")?);
    common::fuse_gate(&mut spec);
    Ok(spec)
}

pub(super) fn glm4(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = glm(config)?;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let norm = |name: &str| {
            let module = format!("model.layers.{i}.{name}");
            Some(NormSpec { module, ..spec.final_norm.clone() })
        };
        layer.post_attention_norm = norm("post_self_attn_layernorm");
        layer.post_mlp_norm = norm("post_mlp_layernorm");
    }
    Ok(spec)
}
