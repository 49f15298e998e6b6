//! SmolLM 3: Llama in which some layers have no rotary embedding.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    let interval = config.size("no_rope_layer_interval")?;
    let turning = config.numbers_or_none("no_rope_layers")?;
    if turning.as_ref().is_some_and(|turning| turning.len() != spec.layers.len()) {
        return Err(config.error("no_rope_layers", &format!("does not name {} layers", spec.layers.len())));
    }
    // Despite its name, the list holds 1 for layers with a rotary embedding.
    let turns =
        |i: usize| turning.as_ref().map_or(!(i + 1).is_multiple_of(interval), |turning| turning[i] != 0.0);
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        layer.attention.rotation = turns(i).then_some(0);
    }
    common::attention_bias(config, &mut spec)?;
    common::mlp_bias(&mut spec, config.flag("mlp_bias")?);
    // A key of Qwen's sliding window, which also occurs in this family's files without a window.
    config.mark("max_window_layers");
    let (window, slides) = (config.size_or_none("sliding_window")?, config.flag("use_sliding_window")?);
    let sliding =
        common::layer_types(config, spec.layers.len(), |i| slides && window.is_some() && !turns(i))?;
    if sliding.contains(&true) && !slides {
        let why = "names layers that slide, but use_sliding_window is false";
        return Err(config.error("layer_types", why));
    }
    common::slide(config, &mut spec, &sliding)?;
    Ok(spec)
}
