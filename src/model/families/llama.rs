//! Llama 1, 2, 3, 3.1, 3.2 and what shares their architecture (SmolLM2, TinyLlama, ...).

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, MlpSpec};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    if config.flag("attention_bias", false)? {
        common::attention_bias(&mut spec, true);
    }
    if config.flag("mlp_bias", false)? {
        for layer in &mut spec.layers {
            if let MlpSpec::Gated { gate, up, down, .. } = &mut layer.mlp {
                [gate, up, down].into_iter().for_each(|linear| linear.bias = true);
            }
        }
    }
    Ok(spec)
}
