//! What most families share: Llama's layout, which a family then changes where it differs.

use super::json::ConfigJson;
use super::rotation::RotarySettings;
use crate::error::Result;
use crate::model::spec::{
    AttentionSpec, DecoderSpec, LayerSpec, LinearSpec, MlpSpec, NormKind, NormSpec, QkvSpec,
};
use crate::ops::gated_act::Activation;
use crate::ops::token_logps::LogitShape;
use crate::ops::tree_attention::Heads;

/// Llama's architecture with the sizes of `config`.
pub(super) fn llama_like(config: &ConfigJson) -> Result<DecoderSpec> {
    let hidden = config.size("hidden_size")?;
    let heads = heads(config, hidden, "num_attention_heads")?;
    let rotary = RotarySettings::read(config, 10_000.0)?;
    let eps = match config.number_or_none("rms_norm_eps")? {
        Some(eps) => eps,
        None => config.number_or_none("layer_norm_eps")?.unwrap_or(1e-6),
    };
    let intermediate = config.size("intermediate_size")?;
    let act = activation(config, &["hidden_activation", "hidden_act"])?;
    let vocab_size = config.size("vocab_size")?;
    let layers = (0..config.size("num_hidden_layers")?)
        .map(|i| {
            let at = |name: &str| format!("model.layers.{i}.{name}");
            let linear = |name: &str, inputs, outputs| LinearSpec::new(at(name), inputs, outputs);
            let rms = |name: &str| NormSpec { module: at(name), size: hidden, kind: NormKind::Rms, eps };
            let (q, kv) = (heads.n_head * heads.head_dim, heads.n_kv_head * heads.head_dim);
            LayerSpec {
                attention_norm: Some(rms("input_layernorm")),
                attention: AttentionSpec {
                    qkv: QkvSpec::Separate([
                        linear("self_attn.q_proj", hidden, q),
                        linear("self_attn.k_proj", hidden, kv),
                        linear("self_attn.v_proj", hidden, kv),
                    ]),
                    qk_norm: None,
                    heads,
                    rotation: Some(0),
                    output: linear("self_attn.o_proj", q, hidden),
                },
                post_attention_norm: None,
                mlp_norm: Some(rms("post_attention_layernorm")),
                mlp: MlpSpec::Gated {
                    gate: linear("mlp.gate_proj", hidden, intermediate),
                    up: linear("mlp.up_proj", hidden, intermediate),
                    down: linear("mlp.down_proj", intermediate, hidden),
                    act,
                },
                post_mlp_norm: None,
                parallel: false,
                residual_scale: 1.0,
            }
        })
        .collect();
    let tied = config.flag("tie_word_embeddings", false)?;
    Ok(DecoderSpec {
        model_type: config.string("model_type")?,
        vocab_size,
        hidden,
        max_positions: config.size("max_position_embeddings")?,
        embedding: "model.embed_tokens".into(),
        embedding_scale: 1.0,
        positions: None,
        rotations: vec![rotary.rotation(config, heads.head_dim)?],
        layers,
        final_norm: NormSpec { module: "model.norm".into(), size: hidden, kind: NormKind::Rms, eps },
        head: (!tied).then(|| LinearSpec::new("lm_head".into(), hidden, vocab_size)),
        logits: LogitShape::default(),
        absent_prefix: "",
    })
}

/// Heads with the usual scale 1/√head_dim.
pub(super) fn heads(config: &ConfigJson, hidden: usize, n_head_key: &str) -> Result<Heads> {
    let n_head = config.size(n_head_key)?;
    let n_kv_head = config.size_or_none("num_key_value_heads")?.unwrap_or(n_head);
    let head_dim = match config.size_or_none("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(n_head) => hidden / n_head,
        None => {
            return Err(
                config.error(n_head_key, &format!("{n_head} does not divide the hidden size {hidden}"))
            );
        }
    };
    if n_head % n_kv_head != 0 {
        return Err(
            config.error("num_key_value_heads", &format!("{n_kv_head} does not divide {n_head} heads"))
        );
    }
    if head_dim % 2 != 0 {
        return Err(config.error("head_dim", &format!("{head_dim} is odd")));
    }
    let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
    Ok(Heads { n_head, n_kv_head, head_dim, scale, softcap: None, window: None })
}

/// The first activation named by one of `keys`.
pub(super) fn activation(config: &ConfigJson, keys: &[&str]) -> Result<Activation> {
    let key = keys.iter().find(|key| config.get(key).is_some()).unwrap_or(&keys[0]);
    let name = config.string(key)?;
    Activation::by_name(&name).ok_or_else(|| {
        config.error(
            key,
            &format!("{name:?} is not supported; known: silu, gelu, gelu_new, gelu_pytorch_tanh, relu"),
        )
    })
}

/// Sets the window of the layers that `layer_types` calls sliding, or, without it, of those that `slides` names.
pub(super) fn slide(
    config: &ConfigJson,
    spec: &mut DecoderSpec,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let types = config.strings_or_none("layer_types")?;
    if types.as_ref().is_some_and(|types| types.len() != spec.layers.len()) {
        return Err(config.error("layer_types", &format!("does not name {} layers", spec.layers.len())));
    }
    let sliding: Vec<bool> = (0..spec.layers.len())
        .map(|i| types.as_ref().map_or_else(|| slides(i), |types| types[i] == "sliding_attention"))
        .collect();
    let window = config.size_or_none("sliding_window")?;
    for (layer, _) in spec.layers.iter_mut().zip(&sliding).filter(|(_, sliding)| **sliding) {
        layer.attention.heads.window = window;
    }
    Ok(sliding)
}

/// Changes every norm of a spec.
pub(super) fn each_norm(spec: &mut DecoderSpec, change: impl Fn(&mut NormSpec)) {
    for layer in &mut spec.layers {
        let norms = [
            &mut layer.attention_norm,
            &mut layer.post_attention_norm,
            &mut layer.mlp_norm,
            &mut layer.post_mlp_norm,
        ];
        norms.into_iter().flatten().for_each(&change);
        if let Some((q, k)) = &mut layer.attention.qk_norm {
            change(q);
            change(k);
        }
    }
    change(&mut spec.final_norm);
}

/// Gives queries, keys and values (and the output projection, if `output`) a bias.
pub(super) fn attention_bias(spec: &mut DecoderSpec, output: bool) {
    for layer in &mut spec.layers {
        if let QkvSpec::Separate(each) = &mut layer.attention.qkv {
            each.iter_mut().for_each(|linear| linear.bias = true);
        }
        layer.attention.output.bias |= output;
    }
}

/// Norms over each head's queries and keys.
pub(super) fn head_norms(spec: &mut DecoderSpec) {
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let Some(like) = &layer.attention_norm else { continue };
        let norm = |name: &str| NormSpec {
            module: format!("model.layers.{i}.self_attn.{name}"),
            size: layer.attention.heads.head_dim,
            ..like.clone()
        };
        layer.attention.qk_norm = Some((norm("q_norm"), norm("k_norm")));
    }
}

/// What every spec must satisfy before memory is spent on it.
pub(super) fn check(config: &ConfigJson, spec: &DecoderSpec) -> Result<()> {
    for layer in &spec.layers {
        let turned = layer.attention.rotation.map_or(0, |index| 2 * spec.rotations[index].frequencies.len());
        if turned > layer.attention.heads.head_dim {
            return Err(config.error("rotary_dim", &format!("{turned} features turn of a head's fewer")));
        }
    }
    Ok(())
}
