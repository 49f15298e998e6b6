//! llama.cpp's names of a decoder's tensors (`gguf-py/gguf/tensor_mapping.py`).

use std::collections::BTreeMap;

use super::source::{Change, Tensor};
use crate::model::spec::{DecoderSpec, LinearSpec, MlpSpec, NormKind, NormSpec, QkvSpec};

/// The decoder's tensors by their names in transformers' model.
pub(super) fn tensors(spec: &DecoderSpec, permutes: bool) -> BTreeMap<String, Tensor> {
    let mut found = Found { tensors: BTreeMap::new(), permutes };
    found.put(&spec.embedding, "weight", "token_embd", Change::None);
    found.norm(Some(&spec.final_norm), "output_norm");
    if let Some(head) = &spec.head {
        found.linear(head, "output", None);
    }
    for (i, layer) in spec.layers.iter().enumerate() {
        let at = |name: &str| format!("blk.{i}.{name}");
        found.norm(layer.attention_norm.as_ref(), &at("attn_norm"));
        found.norm(layer.post_attention_norm.as_ref(), &at("post_attention_norm"));
        found.norm(layer.mlp_norm.as_ref(), &at("ffn_norm"));
        found.norm(layer.post_mlp_norm.as_ref(), &at("post_ffw_norm"));
        let (norms, heads) = (layer.attention.qk_norm.as_ref(), layer.attention.heads);
        found.norm(norms.map(|(q, _)| q), &at("attn_q_norm"));
        found.norm(norms.map(|(_, k)| k), &at("attn_k_norm"));
        match &layer.attention.qkv {
            QkvSpec::Separate([q, k, v]) => {
                found.linear(q, &at("attn_q"), Some(heads.n_head));
                found.linear(k, &at("attn_k"), Some(heads.n_kv_head));
                found.linear(v, &at("attn_v"), None);
            }
            QkvSpec::Stacked(qkv) | QkvSpec::PerHead(qkv) => found.linear(qkv, &at("attn_qkv"), None),
        }
        found.linear(&layer.attention.output, &at("attn_output"), None);
        let (up, down) = match &layer.mlp {
            MlpSpec::Gated { gate, up, down, .. } => {
                found.linear(gate, &at("ffn_gate"), None);
                (up, down)
            }
            MlpSpec::FusedGated { gate_up: up, down, .. } | MlpSpec::Plain { up, down, .. } => (up, down),
        };
        found.linear(up, &at("ffn_up"), None);
        found.linear(down, &at("ffn_down"), None);
    }
    found.tensors
}

struct Found {
    tensors: BTreeMap<String, Tensor>,
    permutes: bool,
}

impl Found {
    fn put(&mut self, module: &str, part: &str, name: &str, change: Change) {
        self.tensors.insert(format!("{module}.{part}"), Tensor::new(format!("{name}.{part}"), change));
    }

    /// Adds a linear module. `heads` is given for queries and keys, whose rows may be reordered.
    fn linear(&mut self, linear: &LinearSpec, name: &str, heads: Option<usize>) {
        let change = heads.filter(|_| self.permutes).map_or(Change::None, |heads| Change::Permuted { heads });
        self.put(&linear.module, "weight", name, change);
        if linear.bias {
            self.put(&linear.module, "bias", name, change);
        }
    }

    fn norm(&mut self, norm: Option<&NormSpec>, name: &str) {
        let Some(norm) = norm else { return };
        let change = if norm.kind == NormKind::RmsPlusOne { Change::PlusOne } else { Change::None };
        self.put(&norm.module, "weight", name, change);
        if norm.kind == NormKind::Layer {
            self.put(&norm.module, "bias", name, Change::None);
        }
    }
}
