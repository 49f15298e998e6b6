//! StarCoder 2: Llama with layer norms, biases, and an ungated MLP.

use super::common;
use super::json::ConfigJson;
use super::rotation::WHOLE;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, NormKind};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_sizes(config, "norm_epsilon")?;
    common::rotate(config, &mut spec, &WHOLE)?;
    common::each_norm(&mut spec, |norm| norm.kind = NormKind::Layer);
    if let Some(eps) = config.number_or_none("norm_epsilon")? {
        config.accept(&[("layer_norm_epsilon", eps.into())]);
    }
    config.accept(&[
        ("mlp_type", "default".into()),
        ("norm_type", "layer_norm".into()),
        ("scale_attn_weights", true.into()),
        ("attention_softmax_in_fp32", true.into()),
        ("scale_attention_softmax_in_fp32", true.into()),
    ]);
    common::plain_mlp(&mut spec, "c_fc", "c_proj");
    let bias = config.flag("use_bias")?;
    common::qkv_bias(&mut spec, bias);
    common::output_bias(&mut spec, bias);
    common::mlp_bias(&mut spec, bias);
    common::slide_all(config, &mut spec)?;
    Ok(spec)
}
