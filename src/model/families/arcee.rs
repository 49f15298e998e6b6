//! Arcee's AFM: Llama with an ungated MLP, `down(relu(up(x))²)`.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::DecoderSpec;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    common::whole_heads(config)?;
    let mut spec = common::llama_like(config)?;
    common::plain_mlp(&mut spec, "up_proj", "down_proj");
    common::attention_bias(config, &mut spec)?;
    common::mlp_bias(&mut spec, config.flag("mlp_bias")?);
    Ok(spec)
}
