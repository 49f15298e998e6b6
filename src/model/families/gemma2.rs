//! Gemma 2: Gemma with four norms per block, soft-caps, and a sliding window in every other layer.

use super::common;
use super::gemma::gemma_like;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, NormSpec};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = gemma2_like(config)?;
    // The window's original name, in the earliest files.
    if let Some(window) = config.size_or_none("sliding_window")? {
        config.accept(&[("sliding_window_size", window.into())]);
    }
    let sliding = common::layer_types(config, spec.layers.len(), |i| i % 2 == 0)?;
    common::slide(config, &mut spec, &sliding)?;
    common::rotate(config, &mut spec, &super::rotation::WHOLE)?;
    Ok(spec)
}

/// Builds what Gemma 2 and 3 share.
pub(super) fn gemma2_like(config: &ConfigJson) -> Result<DecoderSpec> {
    common::whole_heads(config)?;
    let mut spec = gemma_like(config)?;
    if config.string_or_none("_attn_implementation")?.as_deref() == Some("sdpa") {
        return Err(config.error("_attn_implementation", "is \"sdpa\", which has no soft-cap; remove it"));
    }
    // A key of Gemma 1 that these classes do not read, but that occurs in files of both.
    if config
        .string_or_none("hidden_act")?
        .is_some_and(|act| config.string("hidden_activation").ok() != Some(act))
    {
        return Err(config.error("hidden_act", "differs from hidden_activation, which is used; remove it"));
    }
    four_norms(&mut spec);
    let scale = config.number("query_pre_attn_scalar")?.powf(-0.5) as f32;
    let softcap = config.number_or_none("attn_logit_softcapping")?.map(|c| c as f32);
    for layer in &mut spec.layers {
        layer.attention.heads.scale = scale;
        layer.attention.heads.softcap = softcap;
    }
    spec.logits.softcap = config.number_or_none("final_logit_softcapping")?.map(|c| c as f32);
    Ok(spec)
}

/// Adds norms before and after both branches.
fn four_norms(spec: &mut DecoderSpec) {
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
