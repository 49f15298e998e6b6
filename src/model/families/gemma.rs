//! Gemma 1: Llama with gains of one more than the stored weight, a scaled embedding and a tied head.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, MlpSpec, NormKind};
use crate::ops::gated_act::Activation;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    common::each_norm(&mut spec, |norm| norm.kind = NormKind::RmsPlusOne);
    // The official files of Gemma 1 say `gelu` and mean its tanh form, as transformers reads them.
    if config.get("hidden_activation").is_none() {
        for layer in &mut spec.layers {
            match &mut layer.mlp {
                MlpSpec::Gated { act, .. } if *act == Activation::Gelu => *act = Activation::GeluTanh,
                _ => {}
            }
        }
    }
    spec.embedding_scale = (spec.hidden as f64).sqrt() as f32;
    // Gemma's classes tie by default; older files do not say so.
    if config.flag("tie_word_embeddings", true)? {
        spec.head = None;
    }
    Ok(spec)
}
