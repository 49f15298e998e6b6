//! Ministral 3: Mistral with YaRN, and queries that grow with the logarithm of their position.

use serde_json::{Value, json};

use super::common::{self, unsupported};
use super::json::ConfigJson;
use super::rotation::{Rotary, WHOLE};
use crate::error::Result;
use crate::model::spec::{DecoderSpec, Growth, RotationSpec};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_sizes(config, "rms_norm_eps")?;
    let sliding = common::layer_types(config, spec.layers.len(), |_| true)?;
    if sliding.contains(&false) {
        return Err(unsupported(
            config,
            "layer_types",
            "transformers' Ministral 3 has a sliding window in every layer",
        ));
    }
    common::slide_all(config, &mut spec)?;
    let with_default = with_default_rotation(config);
    let config = with_default.as_ref().unwrap_or(config);
    let rotary = Rotary::read(config, &WHOLE)?;
    // The files repeat this top-level key here.
    rotary.overlook(&["max_position_embeddings"]);
    let head_dim = spec.layers.first().map_or(2, |layer| layer.attention.heads.head_dim);
    let keys = rotary.rotation(config, head_dim)?;
    let beta = rotary.setting("llama_4_scaling_beta")?.ok_or_else(|| {
        config.error("rope_parameters.llama_4_scaling_beta", "is missing; this family's queries need it")
    })?;
    if rotary.kind() == "default" || rotary.kind() == "linear" {
        return Err(
            config.error("rope_parameters.rope_type", "has no original positions; this family needs yarn")
        );
    }
    let growth = Some(Growth { beta, original: rotary.original() });
    spec.rotations = vec![keys.clone(), RotationSpec { growth, ..keys }];
    for layer in &mut spec.layers {
        layer.attention.query_rotation = Some(1);
    }
    Ok(spec)
}

/// Adds the class's own rotary settings if the file has none.
fn with_default_rotation(config: &ConfigJson) -> Option<ConfigJson> {
    let is_there = |key: &str| config.given(key).is_some();
    if is_there("rope_parameters") || is_there("rope_scaling") {
        return None;
    }
    let mut filled = config.clone();
    let settings = json!({"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1});
    filled.values.insert("rope_parameters".into(), settings);
    Some(filled).filter(|filled| filled.values.get("rope_parameters").is_some_and(Value::is_object))
}
