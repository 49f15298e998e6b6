//! GPT-NeoX and Pythia: layer norms, parallel branches, partial rotary, queries, keys and values interleaved by head.

use super::common;
use super::json::ConfigJson;
use super::rotation::RotarySettings;
use crate::error::Result;
use crate::model::spec::{
    AttentionSpec, DecoderSpec, LayerSpec, LinearSpec, MlpSpec, NormKind, NormSpec, QkvSpec,
};
use crate::ops::token_logps::LogitShape;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let (hidden, intermediate) = (config.size("hidden_size")?, config.size("intermediate_size")?);
    let heads = common::heads(config, hidden, "num_attention_heads")?;
    let base = config.number_or_none("rotary_emb_base")?.unwrap_or(10_000.0);
    let mut rotary = RotarySettings::read(config, base)?;
    // The family's own default is a quarter.
    if rotary.partial == 1.0 && config.get("rope_parameters").is_none() && config.get("rotary_pct").is_none()
    {
        rotary.partial = 0.25;
    }
    let eps = config.number_or_none("layer_norm_eps")?.unwrap_or(1e-5);
    let act = common::activation(config, &["hidden_act"])?;
    let (bias, parallel) =
        (config.flag("attention_bias", true)?, config.flag("use_parallel_residual", true)?);
    let norm = |module: String| NormSpec { module, size: hidden, kind: NormKind::Layer, eps };
    let layers = (0..config.size("num_hidden_layers")?)
        .map(|i| {
            let at = |name: &str| format!("gpt_neox.layers.{i}.{name}");
            let linear = |name: &str, inputs, outputs| LinearSpec::new(at(name), inputs, outputs);
            LayerSpec {
                attention_norm: Some(norm(at("input_layernorm"))),
                attention: AttentionSpec {
                    qkv: QkvSpec::PerHead(
                        linear("attention.query_key_value", hidden, 3 * hidden).with_bias(bias),
                    ),
                    qk_norm: None,
                    heads,
                    rotation: Some(0),
                    output: linear("attention.dense", hidden, hidden).with_bias(bias),
                },
                post_attention_norm: None,
                mlp_norm: Some(norm(at("post_attention_layernorm"))),
                mlp: MlpSpec::Plain {
                    up: linear("mlp.dense_h_to_4h", hidden, intermediate).with_bias(true),
                    down: linear("mlp.dense_4h_to_h", intermediate, hidden).with_bias(true),
                    act,
                },
                post_mlp_norm: None,
                parallel,
                residual_scale: 1.0,
            }
        })
        .collect();
    let vocab_size = config.size("vocab_size")?;
    let tied = config.flag("tie_word_embeddings", false)?;
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
        absent_prefix: "",
    })
}
