//! Cohere's Command R (`cohere`) and Command R7B and A (`cohere2`): parallel branches after one layer norm without
//! bias, rotation of neighbouring features, and scaled logits. `cohere2` has rotation and a sliding window only in
//! three of four layers.

use super::common;
use super::json::ConfigJson;
use super::rotation::WHOLE;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, NormKind};

pub(super) fn cohere(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_sizes(config, "layer_norm_eps")?;
    common::rotate(config, &mut spec, &WHOLE)?;
    common::interleave(&mut spec);
    common::each_norm(&mut spec, |norm| norm.kind = NormKind::LayerWithoutBias);
    common::attention_bias(config, &mut spec)?;
    for layer in &mut spec.layers {
        layer.parallel = true;
        layer.mlp_norm = None;
    }
    // In Command R+, each head has its own gain.
    if config.flag("use_qk_norm")? {
        common::head_norms(&mut spec, common::QK_NORMS);
        for layer in &mut spec.layers {
            let heads = layer.attention.heads;
            if let Some((q, k)) = &mut layer.attention.qk_norm {
                (q.runs, k.runs) = (Some(heads.n_head), Some(heads.n_kv_head));
            }
        }
    }
    spec.logits.scale = config.number("logit_scale")? as f32;
    Ok(spec)
}

pub(super) fn cohere2(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = cohere(config)?;
    let pattern = config.size_or_none("sliding_window_pattern")?.unwrap_or(4);
    // These keys occur in Command R7B's files.
    config.accept(&[
        ("layer_switch", pattern.into()),
        ("order_of_interleaved_layers", "local_attn_first".into()),
        ("position_embedding_type", "rope_gptj".into()),
        ("rotary_pct", 1.0.into()),
        ("use_embedding_sharing", spec.head.is_none().into()),
        ("use_gated_activation", true.into()),
        ("use_parallel_block", true.into()),
    ]);
    let sliding = common::layer_types(config, spec.layers.len(), |i| (i + 1) % pattern != 0)?;
    common::slide(config, &mut spec, &sliding)?;
    let window = config.size_or_none("sliding_window")?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.attention.rotation = (sliding && window.is_some()).then_some(0);
    }
    Ok(spec)
}
