//! GPT-NeoX and Pythia: layer norms, parallel branches, partial rotary; queries, keys and values interleaved by head.

use super::common;
use super::json::ConfigJson;
use super::rotation::{Names, Rotary};
use crate::error::Result;
use crate::model::spec::{
    AttentionSpec, DecoderSpec, LayerSpec, LinearSpec, MlpSpec, NormKind, NormSpec, QkvSpec,
};
use crate::ops::token_logps::LogitShape;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let (hidden, intermediate) = (config.size("hidden_size")?, config.size("intermediate_size")?);
    let heads = common::even_heads(config, hidden, "num_attention_heads")?;
    common::whole_heads(config)?;
    let names = Names { theta: "rotary_emb_base", partial: "rotary_pct", turns_partly: true };
    let rotary = Rotary::read(config, &names)?;
    // Keys of other families that transformers does not read here.
    for (key, used) in [("rope_theta", rotary.theta()), ("partial_rotary_factor", rotary.partial())] {
        if config.number_or_none(key)?.is_some_and(|said| said != used) {
            let why = format!("is not read by transformers' GPT-NeoX, which computes with {used}; remove it");
            config.refuse(key, &why)?;
        }
    }
    let eps = config.epsilon("layer_norm_eps")?;
    let act = common::activation(config, "hidden_act")?;
    let (bias, parallel) = (config.flag("attention_bias")?, config.flag("use_parallel_residual")?);
    let norm = |module: String| NormSpec { module, size: hidden, runs: None, kind: NormKind::Layer, eps };
    let layers = (0..config.size("num_hidden_layers")?)
        .map(|i| {
            let at = |name: &str| format!("gpt_neox.layers.{i}.{name}");
            let linear = |name: &str, inputs, outputs| LinearSpec::new(at(name), inputs, outputs);
            let qkv =
                QkvSpec::PerHead(linear("attention.query_key_value", hidden, 3 * hidden).with_bias(bias));
            let attention =
                AttentionSpec::new(qkv, heads, linear("attention.dense", hidden, hidden).with_bias(bias));
            let mlp = MlpSpec::Plain {
                up: linear("mlp.dense_h_to_4h", hidden, intermediate).with_bias(true),
                down: linear("mlp.dense_4h_to_h", intermediate, hidden).with_bias(true),
                act,
            };
            let attention = AttentionSpec { rotation: Some(0), ..attention };
            LayerSpec {
                attention_norm: Some(norm(at("input_layernorm"))),
                mlp_norm: Some(norm(at("post_attention_layernorm"))),
                parallel,
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
        embedding: "gpt_neox.embed_in".into(),
        embedding_scale: 1.0,
        positions: None,
        rotations: vec![rotary.rotation(config, heads.head_dim)?],
        layers,
        final_norm: norm("gpt_neox.final_layer_norm".into()),
        head: (!tied).then(|| LinearSpec::new("embed_out".into(), hidden, vocab_size)),
        logits: LogitShape::default(),
        head_module: "embed_out",
        tie_is_stated: config.given("tie_word_embeddings").is_some(),
        // For a model that was saved without its head.
        layouts: vec![&[("gpt_neox.", "")]],
        elsewhere: &[],
        ignored: Vec::new(),
    })
}
