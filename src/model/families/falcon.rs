//! Falcon 7B, 40B and related models: layer norms, one projection for queries, keys and values, and parallel or
//! sequential branches.

use super::common::{self, unsupported};
use super::json::ConfigJson;
use super::rotation::{Rotary, WHOLE};
use crate::error::Result;
use crate::model::spec::{
    AttentionSpec, DecoderSpec, LayerSpec, LinearSpec, MlpSpec, NormKind, NormSpec, QkvSpec,
};
use crate::ops::token_logps::LogitShape;
use crate::ops::tree_attention::Heads;

/// The layout of a block.
struct Layout {
    /// Whether it is the second architecture (40B, 180B), with queries, keys and values grouped by key head.
    new: bool,
    parallel: bool,
    /// Whether there are two norms before parallel branches.
    two_norms: bool,
    bias: bool,
}

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let hidden = match config.size_or_none("n_embed")? {
        Some(hidden) => hidden,
        None => config.size("hidden_size")?,
    };
    let layout = layout(config)?;
    let (heads, stacked) = heads(config, hidden, layout.new)?;
    let inner = config.size_or_none("ffn_hidden_size")?.unwrap_or(4 * hidden);
    let (act, eps) = (common::activation(config, "activation")?, config.epsilon("layer_norm_epsilon")?);
    let norm = |module: String| NormSpec { module, size: hidden, runs: None, kind: NormKind::Layer, eps };
    let layers = (0..config.size("num_hidden_layers")?)
        .map(|i| {
            let at = |name: &str| format!("transformer.h.{i}.{name}");
            let linear = |name: &str, inputs, outputs| {
                LinearSpec::new(at(name), inputs, outputs).with_bias(layout.bias)
            };
            let width = (heads.n_head + 2 * heads.n_kv_head) * heads.head_dim;
            let qkv = linear("self_attention.query_key_value", hidden, width);
            let (first, second) = match (layout.two_norms, layout.parallel) {
                (true, _) => ("ln_attn", Some("ln_mlp")),
                (false, true) => ("input_layernorm", None),
                (false, false) => ("input_layernorm", Some("post_attention_layernorm")),
            };
            let qkv = if stacked { QkvSpec::Stacked(qkv) } else { QkvSpec::PerHead(qkv) };
            let attention = AttentionSpec::new(qkv, heads, linear("self_attention.dense", hidden, hidden));
            let mlp = MlpSpec::Plain {
                up: linear("mlp.dense_h_to_4h", hidden, inner),
                down: linear("mlp.dense_4h_to_h", inner, hidden),
                act,
            };
            let cached_wide = layout.new && heads.n_kv_head < heads.n_head;
            let attention = AttentionSpec { rotation: Some(0), cached_wide, ..attention };
            LayerSpec {
                attention_norm: Some(norm(at(first))),
                mlp_norm: second.map(|name| norm(at(name))),
                parallel: layout.parallel,
                ..LayerSpec::new(attention, mlp)
            }
        })
        .collect();
    let vocab_size = config.size("vocab_size")?;
    let tied = config.flag("tie_word_embeddings")?;
    Ok(DecoderSpec {
        model_type: config.string("model_type")?,
        vocab_size,
        hidden,
        max_positions: config.size("max_position_embeddings")?,
        embedding: "transformer.word_embeddings".into(),
        embedding_scale: 1.0,
        positions: None,
        rotations: vec![Rotary::read(config, &WHOLE)?.rotation(config, heads.head_dim)?],
        layers,
        final_norm: norm("transformer.ln_f".into()),
        head: (!tied).then(|| LinearSpec::new("lm_head".into(), hidden, vocab_size)),
        logits: LogitShape::default(),
        head_module: "lm_head",
        tie_is_stated: config.given("tie_word_embeddings").is_some(),
        layouts: vec![&[("transformer.", "")]],
        elsewhere: &[],
        ignored: Vec::new(),
    })
}

fn layout(config: &ConfigJson) -> Result<Layout> {
    if config.flag("alibi")? {
        return Err(unsupported(
            config,
            "alibi",
            "positions as a slope of scores (Falcon RW) are not supported yet",
        ));
    }
    let (new, parallel) = (config.flag("new_decoder_architecture")?, config.flag("parallel_attn")?);
    let norms = config.size_or_none("num_ln_in_parallel_attn")?;
    if new && !parallel {
        return Err(unsupported(
            config,
            "parallel_attn",
            "the new decoder architecture has parallel branches",
        ));
    }
    if !new && norms == Some(2) {
        return Err(unsupported(
            config,
            "num_ln_in_parallel_attn",
            "two norms belong to the new decoder architecture",
        ));
    }
    let two_norms = new && norms.unwrap_or(2) == 2;
    Ok(Layout { new, parallel, two_norms, bias: config.flag("bias")? })
}

/// Returns the heads, and whether queries, keys and values are stacked (otherwise they are grouped by key head).
fn heads(config: &ConfigJson, hidden: usize, new: bool) -> Result<(Heads, bool)> {
    let n_head = config.size("num_attention_heads")?;
    let of_file = config.size_or_none("num_kv_heads")?.unwrap_or(n_head);
    let multi_query = config.flag("multi_query")?;
    if !new && !multi_query && of_file != n_head {
        let why = format!("{of_file} differs from the {n_head} heads, each of which has its own keys here");
        return Err(config.error("num_kv_heads", &why));
    }
    let n_kv_head = match (new, multi_query) {
        (true, _) => of_file,
        (false, true) => 1,
        (false, false) => n_head,
    };
    if !hidden.is_multiple_of(n_head) || !n_head.is_multiple_of(n_kv_head) {
        let why = format!("{n_head} does not divide {hidden}, or is not a multiple of {n_kv_head} key heads");
        return Err(config.error("num_attention_heads", &why));
    }
    let head_dim = hidden / n_head;
    let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
    Ok((Heads { n_head, n_kv_head, head_dim, scale, softcap: None, window: None }, !new && multi_query))
}
