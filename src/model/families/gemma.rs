//! Gemma 1: Llama whose norm gain is the stored weight plus one, with a scaled embedding and a tied head.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, MlpSpec, NormKind};
use crate::ops::gated_act::Activation;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = gemma_like(config)?;
    // The official files of Gemma 1 specify `gelu` but mean its tanh form, and transformers reads them that way.
    for layer in &mut spec.layers {
        match &mut layer.mlp {
            MlpSpec::Gated { act, .. } if *act == Activation::Gelu => *act = Activation::GeluTanh,
            _ => {}
        }
    }
    // A key that Gemma 1's class no longer reads, but that occurs in files of both versions.
    let newer = config.string_or_none("hidden_activation")?;
    if newer.is_some_and(|name| Activation::by_name(&name) != Some(Activation::GeluTanh)) {
        return Err(config.error("hidden_activation", "is not read by transformers 5; name it in hidden_act"));
    }
    common::rotate(config, &mut spec, &super::rotation::WHOLE)?;
    Ok(spec)
}

/// Builds what all Gemmas share; the rotation is read later.
pub(super) fn gemma_like(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_sizes(config, "rms_norm_eps")?;
    common::each_norm(&mut spec, |norm| norm.kind = NormKind::RmsPlusOne);
    spec.embedding_scale = (spec.hidden as f64).sqrt() as f32;
    common::attention_bias(config, &mut spec)?;
    Ok(spec)
}
