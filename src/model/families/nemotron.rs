//! Nemotron 3 and 4, Minitron: layer norms whose gain is the stored weight plus one, an ungated MLP, and rotation of
//! half of each head.

use super::common;
use super::json::ConfigJson;
use super::rotation::PARTLY;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, NormKind};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    // Null is not a valid number of heads here.
    config.size("num_key_value_heads")?;
    let mut spec = common::llama_sizes(config, "norm_eps")?;
    common::rotate(config, &mut spec, &PARTLY)?;
    if let Some(partial) = config.number_or_none("partial_rotary_factor")? {
        config.accept(&[("rope_percent", partial.into())]);
    }
    common::each_norm(&mut spec, |norm| norm.kind = NormKind::LayerPlusOne);
    common::plain_mlp(&mut spec, "up_proj", "down_proj");
    common::attention_bias(config, &mut spec)?;
    common::mlp_bias(&mut spec, config.flag("mlp_bias")?);
    Ok(spec)
}
