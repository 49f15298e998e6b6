//! OPT: learned positions starting at the third row, layer norms, biases everywhere, a tied head.

use super::common::{self, unsupported};
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::{
    AttentionSpec, DecoderSpec, LayerSpec, LinearSpec, MlpSpec, NormKind, NormSpec, PositionsSpec, QkvSpec,
};
use crate::ops::token_logps::LogitShape;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let hidden = config.size("hidden_size")?;
    check(config, hidden)?;
    let (inner, bias) = (config.size("ffn_dim")?, config.flag("enable_bias")?);
    let heads = common::even_heads(config, hidden, "num_attention_heads")?;
    let act = common::activation(config, "activation_function")?;
    let norm =
        |module: String| NormSpec { module, size: hidden, runs: None, kind: NormKind::Layer, eps: 1e-5 };
    let layers = (0..config.size("num_hidden_layers")?)
        .map(|i| {
            let at = |name: &str| format!("model.decoder.layers.{i}.{name}");
            let linear =
                |name: &str, inputs, outputs| LinearSpec::new(at(name), inputs, outputs).with_bias(bias);
            let projections = ["q_proj", "k_proj", "v_proj"];
            let qkv = QkvSpec::Separate(
                projections.map(|name| linear(&format!("self_attn.{name}"), hidden, hidden)),
            );
            let attention = AttentionSpec::new(qkv, heads, linear("self_attn.out_proj", hidden, hidden));
            let mlp =
                MlpSpec::Plain { up: linear("fc1", hidden, inner), down: linear("fc2", inner, hidden), act };
            LayerSpec {
                attention_norm: Some(norm(at("self_attn_layer_norm"))),
                mlp_norm: Some(norm(at("final_layer_norm"))),
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
        embedding: "model.decoder.embed_tokens".into(),
        embedding_scale: 1.0,
        positions: Some(PositionsSpec { module: "model.decoder.embed_positions".into(), offset: 2 }),
        rotations: Vec::new(),
        layers,
        final_norm: norm("model.decoder.final_layer_norm".into()),
        head: (!tied).then(|| LinearSpec::new("lm_head".into(), hidden, vocab_size)),
        logits: LogitShape::default(),
        head_module: "lm_head",
        tie_is_stated: config.given("tie_word_embeddings").is_some(),
        layouts: vec![&[("model.decoder.", "decoder.")]],
        elsewhere: &[],
        ignored: Vec::new(),
    })
}

/// Refuses features that only OPT 350M and Galactica have.
fn check(config: &ConfigJson, hidden: usize) -> Result<()> {
    if config.size_or_none("word_embed_proj_dim")?.is_some_and(|width| width != hidden) {
        return Err(unsupported(
            config,
            "word_embed_proj_dim",
            "embeddings as wide as the model are supported",
        ));
    }
    for key in ["do_layer_norm_before", "layer_norm_elementwise_affine"] {
        if !config.flag(key)? {
            return Err(unsupported(config, key, "norms before the branches, with weights, are supported"));
        }
    }
    if config.flag("_remove_final_layer_norm")? {
        return Err(unsupported(config, "_remove_final_layer_norm", "the final norm is computed"));
    }
    Ok(())
}
