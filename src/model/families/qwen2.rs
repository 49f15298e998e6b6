//! Qwen 2 and 2.5: Llama with a bias on queries, keys and values.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    common::attention_bias(&mut spec, false);
    window(config, &mut spec)?;
    Ok(spec)
}

/// The upper layers slide, if `use_sliding_window` says so.
pub(super) fn window(config: &ConfigJson, spec: &mut DecoderSpec) -> Result<()> {
    if config.flag("use_sliding_window", false)? {
        let first = config.size_or_none("max_window_layers")?.unwrap_or(0);
        common::slide(config, spec, |i| i >= first)?;
    }
    Ok(())
}
