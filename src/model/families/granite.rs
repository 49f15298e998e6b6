//! Granite: Llama with multipliers on embedding, scores, branches and logits.

use super::json::ConfigJson;
use super::llama;
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = llama::spec(config)?;
    spec.embedding_scale = config.number("embedding_multiplier")? as f32;
    spec.logits.scale = (1.0 / config.number("logits_scaling")?) as f32;
    let (scores, branches) = (config.number("attention_multiplier")?, config.number("residual_multiplier")?);
    for layer in &mut spec.layers {
        layer.attention.heads.scale = scores as f32;
        layer.residual_scale = branches as f32;
    }
    Ok(spec)
}
