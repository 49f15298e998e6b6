//! Gemma 1: Llama with gains of one more than the stored weight, a scaled embedding and a tied head.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, NormKind};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    common::each_norm(&mut spec, |norm| norm.kind = NormKind::RmsPlusOne);
    spec.embedding_scale = (spec.hidden as f64).sqrt() as f32;
    // Gemma's classes tie by default; older files do not say so.
    if config.flag("tie_word_embeddings", true)? {
        spec.head = None;
    }
    Ok(spec)
}
