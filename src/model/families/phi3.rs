//! Phi-3: Llama with queries, keys and values in one projection, gate and up in another; both stay fused, so that
//! adapters have the shapes PEFT gives them.

use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, LinearSpec, MlpSpec, QkvSpec};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_like(config)?;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let heads = layer.attention.heads;
        let width = (heads.n_head + 2 * heads.n_kv_head) * heads.head_dim;
        let qkv = LinearSpec::new(format!("model.layers.{i}.self_attn.qkv_proj"), spec.hidden, width);
        layer.attention.qkv = QkvSpec::Stacked(qkv);
        if let MlpSpec::Gated { gate, down, act, .. } = layer.mlp.clone() {
            let module = format!("model.layers.{i}.mlp.gate_up_proj");
            let gate_up = LinearSpec::new(module, spec.hidden, 2 * gate.outputs);
            layer.mlp = MlpSpec::FusedGated { gate_up, down, act };
        }
    }
    common::slide(config, &mut spec, |_| true)?;
    Ok(spec)
}
