//! EXAONE 4: norms after the branches, and norms over each head's queries and keys; if there is a sliding window, the
//! layers without it have no rotary embedding.

use serde_json::Value;

use super::common;
use super::common::unsupported;
use super::json::ConfigJson;
use super::rotation::WHOLE;
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_sizes(config, "rms_norm_eps")?;
    common::rotate(config, &mut spec, &WHOLE)?;
    common::norms_after(&mut spec);
    common::head_norms(&mut spec, common::QK_NORMS);
    let window = config.size_or_none("sliding_window")?;
    let pattern = match config.get("sliding_window_pattern") {
        // It has no effect if the layer types are listed; otherwise transformers fails on it.
        Some(Value::String(_)) if config.given("layer_types").is_none() => {
            return Err(unsupported(
                config,
                "sliding_window_pattern",
                "as letters; list layer_types instead",
            ));
        }
        Some(Value::String(_)) | None => 4,
        Some(_) => config.size("sliding_window_pattern")?,
    };
    let sliding =
        common::layer_types(config, spec.layers.len(), |i| window.is_some() && (i + 1) % pattern != 0)?;
    common::slide(config, &mut spec, &sliding)?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.attention.rotation = (window.is_none() || sliding).then_some(0);
    }
    Ok(spec)
}
