//! Gemma 2: Gemma with four norms a block, soft-caps, and a window in every other layer.

use super::json::ConfigJson;
use super::{common, gemma};
use crate::error::Result;
use crate::model::spec::{DecoderSpec, NormSpec};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = gemma::spec(config)?;
    four_norms(&mut spec);
    let scale = (config.number_or_none("query_pre_attn_scalar")?.unwrap_or(256.0)).powf(-0.5) as f32;
    let softcap = config.number_or_none("attn_logit_softcapping")?.map(|c| c as f32);
    for layer in &mut spec.layers {
        layer.attention.heads.scale = scale;
        layer.attention.heads.softcap = softcap;
    }
    spec.logits.softcap = config.number_or_none("final_logit_softcapping")?.map(|c| c as f32);
    common::slide(config, &mut spec, |i| i % 2 == 0)?;
    Ok(spec)
}

/// Norms before and after both branches.
pub(super) fn four_norms(spec: &mut DecoderSpec) {
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let named = |name: &str, like: &NormSpec| NormSpec {
            module: format!("model.layers.{i}.{name}"),
            ..like.clone()
        };
        if let Some(like) = layer.attention_norm.clone() {
            layer.post_attention_norm = Some(named("post_attention_layernorm", &like));
            layer.mlp_norm = Some(named("pre_feedforward_layernorm", &like));
            layer.post_mlp_norm = Some(named("post_feedforward_layernorm", &like));
        }
    }
}
