//! Mistral: Llama with a sliding window in every layer.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    common::slide(config, &mut spec, |_| true)?;
    Ok(spec)
}
