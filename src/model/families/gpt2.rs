//! GPT-2: learned positions, layer norms, one stacked projection, weights stored `[in, out]` (Conv1D).

use super::common::{self, unsupported};
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::{
    AttentionSpec, DecoderSpec, LayerSpec, LinearSpec, MlpSpec, NormKind, NormSpec, PositionsSpec, QkvSpec,
};
use crate::ops::token_logps::LogitShape;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let hidden = config.size("n_embd")?;
    let inner = config.size_or_none("n_inner")?.unwrap_or(4 * hidden);
    let mut heads = common::even_heads(config, hidden, "n_head")?;
    if !config.flag("scale_attn_weights")? {
        heads.scale = 1.0;
    }
    if config.flag("add_cross_attention")? {
        return Err(unsupported(config, "add_cross_attention", "this is a decoder without an encoder"));
    }
    let by_layer = config.flag("scale_attn_by_inverse_layer_idx")?;
    let eps = config.epsilon("layer_norm_epsilon")?;
    let act = common::activation(config, "activation_function")?;
    let norm = |module: String| NormSpec { module, size: hidden, runs: None, kind: NormKind::Layer, eps };
    let layers = (0..config.size("n_layer")?)
        .map(|i| {
            let at = |name: &str| format!("transformer.h.{i}.{name}");
            let conv = |name: &str, inputs, outputs| LinearSpec {
                bias: true,
                transposed: true,
                ..LinearSpec::new(at(name), inputs, outputs)
            };
            let mut heads = heads;
            if by_layer {
                heads.scale /= (i + 1) as f32;
            }
            let qkv = QkvSpec::Stacked(conv("attn.c_attn", hidden, 3 * hidden));
            let attention = AttentionSpec::new(qkv, heads, conv("attn.c_proj", hidden, hidden));
            let mlp = MlpSpec::Plain {
                up: conv("mlp.c_fc", hidden, inner),
                down: conv("mlp.c_proj", inner, hidden),
                act,
            };
            LayerSpec {
                attention_norm: Some(norm(at("ln_1"))),
                mlp_norm: Some(norm(at("ln_2"))),
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
        max_positions: config.size("n_positions")?,
        embedding: "transformer.wte".into(),
        embedding_scale: 1.0,
        positions: Some(PositionsSpec { module: "transformer.wpe".into(), offset: 0 }),
        rotations: Vec::new(),
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
