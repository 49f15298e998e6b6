//! Gemma 3, text: Gemma 2's norms, norms of queries and keys, and five local layers per global layer, each kind with
//! its own rotary base.

use super::common::{self, unsupported};
use super::gemma2::gemma2_like;
use super::json::ConfigJson;
use super::rotation;
use super::rotation::{Names, Rotary, WHOLE};
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = gemma2_like(config)?;
    if config.flag("use_bidirectional_attention")? {
        return Err(unsupported(config, "use_bidirectional_attention", "it is an encoder's attention"));
    }
    // Its class has the key, but its attention does not compute it.
    if config.number_or_none("attn_logit_softcapping")?.is_some() {
        return Err(
            config.error("attn_logit_softcapping", "is not computed by transformers' Gemma 3; remove it")
        );
    }
    common::head_norms(&mut spec, common::QK_NORMS);
    let pattern = config.size("sliding_window_pattern")?;
    // transformers wrote this key before `layer_types` existed, under a name that version 5 does not read.
    if let Some(other) = config.size_or_none("_sliding_window_pattern")?
        && config.given("layer_types").is_none()
        && other != pattern
    {
        let why = format!("is {other}, which transformers 5 does not read; name it sliding_window_pattern");
        return Err(config.error("_sliding_window_pattern", &why));
    }
    let sliding = common::layer_types(config, spec.layers.len(), |i| (i + 1) % pattern != 0)?;
    common::slide(config, &mut spec, &sliding)?;
    let names = Names { theta: "rope_local_base_freq", ..WHOLE };
    rotate_by_kind(config, &mut spec, &sliding, [(&WHOLE, "global"), (&names, "local")])?;
    Ok(spec)
}

/// Reads separate rotary settings for full and sliding layers, from `rope_parameters` by kind or from the older keys; a
/// top-level `rope_scaling` applies to the full layers only.
pub(super) fn rotate_by_kind(
    config: &ConfigJson,
    spec: &mut DecoderSpec,
    sliding: &[bool],
    [(full, full_default), (local, local_default)]: [(&Names, &str); 2],
) -> Result<()> {
    let head_dim = spec.layers.first().map_or(2, |layer| layer.attention.heads.head_dim);
    let nested = config.part("rope_parameters");
    let kinds = ["full_attention", "sliding_attention"];
    if let Some(nested) = nested.as_ref().filter(|part| kinds.iter().all(|kind| part.part(kind).is_none())) {
        // transformers 5.24 applies a flat form to no layer.
        let why = "has no part full_attention or sliding_attention; transformers 5 reads it by kind of layer";
        if !nested.values.is_empty() {
            return Err(config.error("rope_parameters", why));
        }
    }
    let of = |kind: &str| nested.as_ref().and_then(|part| part.part(kind));
    let scaled = config.part("rope_scaling").filter(|part| !part.values.is_empty());
    if let Some(scaled) = scaled.as_ref().filter(|part| part.given("rope_type").is_none()) {
        // transformers 5.24 merges it into settings of rope_type `default`, which `type` does not change.
        return Err(
            scaled.error("rope_type", "is missing; transformers 5 does not read the older `type` here")
        );
    }
    let full_part = match (of("full_attention"), scaled) {
        (Some(part), Some(scaled)) => {
            // transformers updates the former with the latter.
            Some(rotation::updated(part, &scaled))
        }
        (part, scaled) => scaled.or(part),
    };
    let full = Rotary::of_kind(config, full_part, full, full_default)?;
    let local = Rotary::of_kind(config, of("sliding_attention"), local, local_default)?;
    spec.rotations = vec![full.rotation(config, head_dim)?, local.rotation(config, head_dim)?];
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.attention.rotation = Some(usize::from(*sliding));
    }
    Ok(())
}
