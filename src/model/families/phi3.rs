//! Phi-3: Llama with queries, keys and values in one projection, and gate and up in another. Both stay fused so that
//! adapters have the same shapes as in PEFT.

use super::common;
use super::json::ConfigJson;
use super::rotation::{PARTLY, Rotary};
use crate::error::Result;
use crate::model::spec::{DecoderSpec, LinearSpec, QkvSpec};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_sizes(config, "rms_norm_eps")?;
    let mut head_dim = 2;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let heads = layer.attention.heads;
        head_dim = heads.head_dim;
        let width = (heads.n_head + 2 * heads.n_kv_head) * heads.head_dim;
        let qkv = LinearSpec::new(format!("model.layers.{i}.self_attn.qkv_proj"), spec.hidden, width);
        layer.attention.qkv = QkvSpec::Stacked(qkv);
    }
    common::fuse_gate(&mut spec);
    let rotary = Rotary::read(config, &PARTLY)?.renamed(&["su", "yarn"], "longrope");
    if !["default", "longrope"].contains(&rotary.kind()) {
        let why = format!("{:?} is not supported by Phi-3; known: default, longrope", rotary.kind());
        return Err(config.error("rope_scaling.rope_type", &why));
    }
    spec.rotations = vec![rotary.rotation(config, head_dim)?];
    common::slide_all(config, &mut spec)?;
    // These keys occur in Phi 4 mini's files.
    config.accept(&[("interpolate_factor", 1.into()), ("full_attn_mod", 1.into())]);
    Ok(spec)
}
