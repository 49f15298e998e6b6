//! OLMo 2: Llama with its norms after the branches instead of before, and norms over all queries and all keys.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, NormSpec};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    if config.flag("attention_bias", false)? {
        common::attention_bias(&mut spec, true);
    }
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let heads = layer.attention.heads;
        let Some(like) = layer.attention_norm.take() else { continue };
        let named =
            |name: &str, size| NormSpec { module: format!("model.layers.{i}.{name}"), size, ..like.clone() };
        layer.post_attention_norm = layer.mlp_norm.take();
        layer.post_mlp_norm = Some(named("post_feedforward_layernorm", spec.hidden));
        layer.attention.qk_norm = Some((
            named("self_attn.q_norm", heads.n_head * heads.head_dim),
            named("self_attn.k_norm", heads.n_kv_head * heads.head_dim),
        ));
    }
    Ok(spec)
}
