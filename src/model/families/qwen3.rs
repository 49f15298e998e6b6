//! Qwen 3: Llama with norms over each head's queries and keys.

use super::json::ConfigJson;
use super::rotation::{Rotary, WHOLE};
use super::{common, qwen2};
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = qwen3_like(config)?;
    qwen2::window(config, &mut spec)?;
    Ok(spec)
}

/// Builds Qwen 3 without its window.
pub(super) fn qwen3_like(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    common::attention_bias(config, &mut spec)?;
    common::head_norms(&mut spec, common::QK_NORMS);
    Ok(spec)
}

/// The text part of Qwen 3 VL. For text, its three position axes coincide.
pub(super) fn vl_text(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = qwen3_like(config)?;
    let rotary = Rotary::read(config, &WHOLE)?;
    rotary.overlook(&["mrope_section", "mrope_interleaved"]);
    rotary.check_axes(config)?;
    let head_dim = spec.layers.first().map_or(2, |layer| layer.attention.heads.head_dim);
    spec.rotations = vec![rotary.rotation(config, head_dim)?];
    Ok(spec)
}
