//! GPT-J: parallel branches after one layer norm, interleaved partial rotary, a head with a bias.

use super::common;
use super::frequencies::frequency;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::{
    AttentionSpec, DecoderSpec, LayerSpec, LinearSpec, MlpSpec, NormKind, NormSpec, QkvSpec, RotationSpec,
};
use crate::ops::rope::Pairing;
use crate::ops::token_logps::LogitShape;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let hidden = config.size("n_embd")?;
    let inner = config.size_or_none("n_inner")?.unwrap_or(4 * hidden);
    let heads = common::even_heads(config, hidden, "n_head")?;
    config.accept(&[("rotary", true.into()), ("scale_attn_weights", true.into())]);
    let turned = config.size("rotary_dim")?;
    if turned % 2 != 0 {
        return Err(config.error("rotary_dim", &format!("{turned} is odd; features are rotated in pairs")));
    }
    let eps = config.epsilon("layer_norm_epsilon")?;
    let act = common::activation(config, "activation_function")?;
    let norm = |module: String| NormSpec { module, size: hidden, runs: None, kind: NormKind::Layer, eps };
    let layers = (0..config.size("n_layer")?)
        .map(|i| {
            let at = |name: &str| format!("transformer.h.{i}.{name}");
            let linear = |name: &str, inputs, outputs| LinearSpec::new(at(name), inputs, outputs);
            let qkv = QkvSpec::Separate(
                ["q_proj", "k_proj", "v_proj"].map(|name| linear(&format!("attn.{name}"), hidden, hidden)),
            );
            let attention = AttentionSpec::new(qkv, heads, linear("attn.out_proj", hidden, hidden));
            let mlp = MlpSpec::Plain {
                up: linear("mlp.fc_in", hidden, inner).with_bias(true),
                down: linear("mlp.fc_out", inner, hidden).with_bias(true),
                act,
            };
            let attention = AttentionSpec { rotation: Some(0), ..attention };
            LayerSpec {
                attention_norm: Some(norm(at("ln_1"))),
                parallel: true,
                ..LayerSpec::new(attention, mlp)
            }
        })
        .collect();
    let frequencies = (0..turned / 2).map(|i| frequency(10_000.0, i, turned)).collect();
    let vocab_size = config.size("vocab_size")?;
    let tied = config.flag("tie_word_embeddings")?;
    Ok(DecoderSpec {
        model_type: config.string("model_type")?,
        vocab_size,
        hidden,
        max_positions: config.size("n_positions")?,
        embedding: "transformer.wte".into(),
        embedding_scale: 1.0,
        positions: None,
        rotations: vec![RotationSpec {
            frequencies,
            scale: 1.0,
            pairing: Pairing::Interleaved,
            by_length: None,
            growth: None,
        }],
        layers,
        final_norm: norm("transformer.ln_f".into()),
        head: (!tied).then(|| LinearSpec::new("lm_head".into(), hidden, vocab_size).with_bias(true)),
        logits: LogitShape::default(),
        head_module: "lm_head",
        tie_is_stated: config.given("tie_word_embeddings").is_some(),
        layouts: Vec::new(),
        elsewhere: &[],
        ignored: Vec::new(),
    })
}
