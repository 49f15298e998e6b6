//! Granite: Llama with a multiplier on embedding, scores, branches and logits.

use super::json::ConfigJson;
use super::llama;
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = llama::spec(config)?;
    let multiplier = |key: &str| Ok::<_, crate::error::Error>(config.number_or_none(key)?.unwrap_or(1.0));
    spec.embedding_scale = multiplier("embedding_multiplier")? as f32;
    spec.logits.scale = (1.0 / multiplier("logits_scaling")?) as f32;
    let (scores, branches) = (multiplier("attention_multiplier")?, multiplier("residual_multiplier")?);
    for layer in &mut spec.layers {
        layer.attention.heads.scale = scores as f32;
        layer.residual_scale = branches as f32;
    }
    Ok(spec)
}
