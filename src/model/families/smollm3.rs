//! SmolLM 3: Llama with layers that have no rotary embedding.

use super::json::ConfigJson;
use super::{common, qwen2};
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    let interval = config.size_or_none("no_rope_layer_interval")?.unwrap_or(4);
    let turning = config.numbers_or_none("no_rope_layers")?;
    if turning.as_ref().is_some_and(|turning| turning.len() != spec.layers.len()) {
        return Err(config.error("no_rope_layers", &format!("does not name {} layers", spec.layers.len())));
    }
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        // Despite its name, the list holds 1 where there is a rotary embedding.
        let turns = turning.as_ref().map_or((i + 1) % interval != 0, |turning| turning[i] != 0.0);
        layer.attention.rotation = turns.then_some(0);
    }
    if config.flag("attention_bias", false)? {
        common::attention_bias(&mut spec, true);
    }
    if config.get("tie_word_embeddings").is_none() {
        spec.head = None;
    }
    qwen2::window(config, &mut spec)?;
    Ok(spec)
}
