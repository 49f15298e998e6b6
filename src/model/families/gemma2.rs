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
    let scalar = config.number("query_pre_attn_scalar")?;
    if scalar <= 0.0 {
        let why = format!("is {scalar}, but queries are divided by its root; it must be above 0");
        return Err(config.error("query_pre_attn_scalar", &why));
    }
    let scale = scalar.powf(-0.5) as f32;
    let softcap = soft_cap(config, "attn_logit_softcapping")?;
    for layer in &mut spec.layers {
        layer.attention.heads.scale = scale;
        layer.attention.heads.softcap = softcap;
    }
    spec.logits.softcap = soft_cap(config, "final_logit_softcapping")?;
    Ok(spec)
}

/// Reads the bound of logits, c in c·tanh(x / c). They are computed in f32, in which it must be above 0 and finite.
fn soft_cap(config: &ConfigJson, key: &str) -> Result<Option<f32>> {
    let Some(cap) = config.number_or_none(key)? else { return Ok(None) };
    let narrow = cap as f32;
    if narrow > 0.0 && narrow.is_finite() {
        return Ok(Some(narrow));
    }
    let why = format!("is {cap}, but logits are divided by it; it must be above 0 (null leaves it out)");
    Err(config.error(key, &why))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_divisor_of_0_is_refused_with_its_key() {
        let with = |key: &str, value: f64| {
            let mut config = json!({"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 8,
                "max_position_embeddings": 8, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 16,
                "hidden_act": "gelu", "hidden_activation": "gelu"});
            config[key] = json!(value);
            let config = ConfigJson::parse(&config.to_string(), "config.json").unwrap();
            gemma2_like(&config).map(|spec| spec.logits.softcap).map_err(|error| error.to_string())
        };
        for key in ["attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"] {
            for value in [0.0, -2.0] {
                let error = with(key, value).unwrap_err();
                assert!(error.contains(&format!("config.json: {key}: is {value}, but")), "{error}");
            }
        }
        assert!(with("final_logit_softcapping", 1e300).unwrap_err().contains("final_logit_softcapping"));
        assert_eq!(with("final_logit_softcapping", 2.0), Ok(Some(2.0)));
    }
}
