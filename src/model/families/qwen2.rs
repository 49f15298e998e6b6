//! Qwen 2 and 2.5: Llama with a bias on queries, keys and values.

use super::common;
use super::json::ConfigJson;
use super::rotation::{Rotary, WHOLE};
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    common::qkv_bias(&mut spec, true);
    window(config, &mut spec)?;
    Ok(spec)
}

/// Sets the sliding window: with `use_sliding_window`, it applies to the layers from `max_window_layers` on, or to
/// those named by `layer_types`.
pub(super) fn window(config: &ConfigJson, spec: &mut DecoderSpec) -> Result<()> {
    let (slides, first) = (config.flag("use_sliding_window")?, config.number("max_window_layers")?);
    let sliding = common::layer_types(config, spec.layers.len(), |i| i as f64 >= first)?;
    // Read even though it has no effect without the flag.
    let window = config.size_or_none("sliding_window")?;
    if slides && window.is_some() {
        return common::slide(config, spec, &sliding);
    }
    if config.given("layer_types").is_some() && sliding.contains(&true) {
        let why = "names layers that slide, but use_sliding_window is false or sliding_window is null";
        return Err(config.error("layer_types", why));
    }
    Ok(())
}

/// The text part of Qwen 2.5 VL. For text, its three position axes coincide.
pub(super) fn vl_text(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_sizes(config, "rms_norm_eps")?;
    let rotary = Rotary::read(config, &WHOLE)?.renamed(&["mrope"], "default");
    rotary.overlook(&["mrope_section"]);
    let head_dim = spec.layers.first().map_or(2, |layer| layer.attention.heads.head_dim);
    spec.rotations = vec![rotary.rotation(config, head_dim)?];
    rotary.check_sections(config, head_dim)?;
    common::qkv_bias(&mut spec, true);
    window(config, &mut spec)?;
    Ok(spec)
}
