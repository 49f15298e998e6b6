//! OLMo 2: Llama with norms after the branches instead of before, and norms over all queries and all keys.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, NormSpec};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = olmo2_like(config)?;
    common::rotate(config, &mut spec, &super::rotation::WHOLE)?;
    Ok(spec)
}

/// Builds what OLMo 2 and 3 share.
pub(super) fn olmo2_like(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_sizes(config, "rms_norm_eps")?;
    common::attention_bias(config, &mut spec)?;
    common::norms_after(&mut spec);
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let heads = layer.attention.heads;
        let norm = |name: &str, count| NormSpec {
            module: format!("model.layers.{i}.self_attn.{name}"),
            size: count * heads.head_dim,
            ..spec.final_norm.clone()
        };
        layer.attention.qk_norm = Some((norm("q_norm", heads.n_head), norm("k_norm", heads.n_kv_head)));
    }
    Ok(spec)
}
