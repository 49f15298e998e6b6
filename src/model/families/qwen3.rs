//! Qwen 3: Llama with norms over each head's queries and keys.

use super::json::ConfigJson;
use super::{common, qwen2};
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    if config.flag("attention_bias", false)? {
        common::attention_bias(&mut spec, true);
    }
    common::head_norms(&mut spec);
    qwen2::window(config, &mut spec)?;
    Ok(spec)
}
