//! Gemma 3, text: Gemma 2's norms, norms over queries and keys, five local layers to a global one, each kind with its
//! own rotary base.

use super::json::ConfigJson;
use super::rotation::RotarySettings;
use super::{common, gemma2};
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = gemma2::spec(config)?;
    common::head_norms(&mut spec);
    let pattern =
        config.size_or_none("sliding_window_pattern")?.or(config.size_or_none("_sliding_window_pattern")?);
    let pattern = pattern.unwrap_or(6);
    spec.layers.iter_mut().for_each(|layer| layer.attention.heads.window = None);
    let sliding = common::slide(config, &mut spec, |i| (i + 1) % pattern != 0)?;

    let nested = config.part("rope_parameters");
    let of = |kind: &str| nested.as_ref().and_then(|part| part.part(kind));
    let global = of("full_attention").or_else(|| config.part("rope_scaling"));
    let global = RotarySettings::from_parts(config, global, "rope_theta", 1e6)?;
    let local = RotarySettings::from_parts(config, of("sliding_attention"), "rope_local_base_freq", 1e4)?;
    let head_dim = spec.layers.first().map_or(2, |layer| layer.attention.heads.head_dim);
    spec.rotations = vec![global.rotation(config, head_dim)?, local.rotation(config, head_dim)?];
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.attention.rotation = Some(usize::from(sliding));
    }
    Ok(spec)
}
