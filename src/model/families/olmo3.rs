//! OLMo 3: OLMo 2 with a sliding window in three of four layers, and rotary settings by kind of layer.

use super::common;
use super::gemma3::rotate_by_kind;
use super::json::ConfigJson;
use super::olmo2::olmo2_like;
use super::rotation::{Names, WHOLE};
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = olmo2_like(config)?;
    let sliding = common::layer_types(config, spec.layers.len(), |i| (i + 1) % 4 != 0)?;
    common::slide(config, &mut spec, &sliding)?;
    // A top-level `rope_theta` applies to the full layers; the others use the class's default.
    let local = Names { theta: "", ..WHOLE };
    rotate_by_kind(config, &mut spec, &sliding, [(&WHOLE, ""), (&local, "")])?;
    Ok(spec)
}
