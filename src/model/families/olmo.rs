//! OLMo 1: Llama with layer norms that have no weights.

use super::common;
use super::json::ConfigJson;
use super::rotation::WHOLE;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, NormKind};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_with(config, 1e-5)?;
    common::rotate(config, &mut spec, &WHOLE)?;
    common::each_norm(&mut spec, |norm| norm.kind = NormKind::LayerPlain);
    common::attention_bias(config, &mut spec)?;
    let clip = config.number_or_none("clip_qkv")?.map(|size| size as f32);
    spec.layers.iter_mut().for_each(|layer| layer.attention.clip = clip);
    Ok(spec)
}
