//! Code shared by most families: Llama's layout, which each family then changes where it differs.

use super::json::ConfigJson;
use super::rotation::{Names, Rotary, WHOLE};
use crate::error::{Error, Result};
use crate::model::spec::{
    AttentionSpec, ByLength, DecoderSpec, LayerSpec, LinearSpec, MlpSpec, NormKind, NormSpec, QkvSpec,
};
use crate::ops::gated_act::Activation;
use crate::ops::rope::Pairing;
use crate::ops::token_logps::LogitShape;
use crate::ops::tree_attention::Heads;

/// Builds Llama's architecture with the sizes of `config`; all features of a head are rotated.
pub(super) fn llama_like(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = llama_sizes(config, "rms_norm_eps")?;
    rotate(config, &mut spec, &WHOLE)?;
    Ok(spec)
}

/// Reads the rotary settings into a spec's single rotation.
pub(super) fn rotate(config: &ConfigJson, spec: &mut DecoderSpec, names: &Names) -> Result<()> {
    let head_dim = spec.layers.first().map_or(2, |layer| layer.attention.heads.head_dim);
    spec.rotations = vec![Rotary::read(config, names)?.rotation(config, head_dim)?];
    Ok(())
}

/// Builds Llama's architecture with the sizes of `config`; the rotation is read later.
pub(super) fn llama_sizes(config: &ConfigJson, eps_key: &str) -> Result<DecoderSpec> {
    llama_with(config, config.epsilon(eps_key)?)
}

/// Builds the same, with the given epsilon that norms add to the mean square.
pub(super) fn llama_with(config: &ConfigJson, eps: f64) -> Result<DecoderSpec> {
    let hidden = config.size("hidden_size")?;
    let heads = heads(config, hidden, "num_attention_heads")?;
    let intermediate = config.size("intermediate_size")?;
    let act = activation(config, act_key(config))?;
    let vocab_size = config.size("vocab_size")?;
    let layers = (0..config.size("num_hidden_layers")?)
        .map(|i| {
            let at = |name: &str| format!("model.layers.{i}.{name}");
            let linear = |name: &str, inputs, outputs| LinearSpec::new(at(name), inputs, outputs);
            let rms = |name: &str| NormSpec {
                module: at(name),
                size: hidden,
                runs: None,
                kind: NormKind::Rms,
                eps,
            };
            let (q, kv) = (heads.n_head * heads.head_dim, heads.n_kv_head * heads.head_dim);
            let qkv = QkvSpec::Separate([
                linear("self_attn.q_proj", hidden, q),
                linear("self_attn.k_proj", hidden, kv),
                linear("self_attn.v_proj", hidden, kv),
            ]);
            let attention = AttentionSpec::new(qkv, heads, linear("self_attn.o_proj", q, hidden));
            let mlp = MlpSpec::Gated {
                gate: linear("mlp.gate_proj", hidden, intermediate),
                up: linear("mlp.up_proj", hidden, intermediate),
                down: linear("mlp.down_proj", intermediate, hidden),
                act,
            };
            let attention = AttentionSpec { rotation: Some(0), ..attention };
            LayerSpec {
                attention_norm: Some(rms("input_layernorm")),
                mlp_norm: Some(rms("post_attention_layernorm")),
                ..LayerSpec::new(attention, mlp)
            }
        })
        .collect();
    let tied = config.flag("tie_word_embeddings")?;
    Ok(DecoderSpec {
        model_type: config.string_or_none("model_type")?.unwrap_or_default(),
        vocab_size,
        hidden,
        max_positions: config.size("max_position_embeddings")?,
        embedding: "model.embed_tokens".into(),
        embedding_scale: 1.0,
        positions: None,
        rotations: Vec::new(),
        layers,
        final_norm: NormSpec {
            module: "model.norm".into(),
            size: hidden,
            runs: None,
            kind: NormKind::Rms,
            eps,
        },
        head: (!tied).then(|| LinearSpec::new("lm_head".into(), hidden, vocab_size)),
        logits: LogitShape::default(),
        head_module: "lm_head",
        tie_is_stated: config.given("tie_word_embeddings").is_some(),
        // For a model that was saved without its head.
        layouts: vec![&[("model.", "")]],
        elsewhere: &[],
        ignored: Vec::new(),
    })
}

/// Reads the heads, with the usual scale 1/√head_dim.
pub(super) fn heads(config: &ConfigJson, hidden: usize, n_head_key: &str) -> Result<Heads> {
    let n_head = config.size(n_head_key)?;
    let n_kv_head = config.size_or_none("num_key_value_heads")?.unwrap_or(n_head);
    // If it is not a field of the class, null does not mean absent.
    let is_null = config.values.get("head_dim").is_some_and(serde_json::Value::is_null);
    if is_null && config.class.is_some_and(|class| !class.is_field("head_dim")) {
        return Err(config.error("head_dim", "is null; remove it, or name a size"));
    }
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

/// Returns the activation's key, which Gemma's classes name differently.
fn act_key(config: &ConfigJson) -> &'static str {
    let is_gemma = config.class.is_some_and(|class| class.default("hidden_activation").is_some());
    if is_gemma { "hidden_activation" } else { "hidden_act" }
}

/// Checks that the heads divide the hidden size, for classes that require it even with a `head_dim`.
pub(super) fn whole_heads(config: &ConfigJson) -> Result<()> {
    let (hidden, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    if hidden % heads == 0 {
        return Ok(());
    }
    Err(config.error("num_attention_heads", &format!("{heads} does not divide the hidden size {hidden}")))
}

/// Reads the activation named by `key`.
pub(super) fn activation(config: &ConfigJson, key: &str) -> Result<Activation> {
    let name = config.string(key)?;
    Activation::by_name(&name).ok_or_else(|| {
        let known = "silu, gelu, gelu_new, gelu_pytorch_tanh, relu, relu2";
        config.error(key, &format!("{name:?} is not supported; known: {known}"))
    })
}

/// Returns for each layer whether it has a sliding window: as `layer_types` lists, or else as `slides` says.
pub(super) fn layer_types(
    config: &ConfigJson,
    layers: usize,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let Some(types) = config.strings_or_none("layer_types")? else {
        return Ok((0..layers).map(slides).collect());
    };
    if types.len() != layers {
        return Err(
            config.error("layer_types", &format!("names {} layers, but the model has {layers}", types.len()))
        );
    }
    types
        .iter()
        .map(|kind| match kind.as_str() {
            "sliding_attention" => Ok(true),
            // `attention` is the original name in transformers.
            "full_attention" | "attention" => Ok(false),
            other => {
                let known = "known: full_attention, sliding_attention";
                Err(config.error("layer_types", &format!("{other:?} is not supported; {known}")))
            }
        })
        .collect()
}

/// Gives every layer the window `sliding_window`, if there is one.
pub(super) fn slide_all(config: &ConfigJson, spec: &mut DecoderSpec) -> Result<()> {
    let window = config.size_or_none("sliding_window")?;
    spec.layers.iter_mut().for_each(|layer| layer.attention.heads.window = window);
    Ok(())
}

/// Gives the sliding layers the window `sliding_window`.
pub(super) fn slide(config: &ConfigJson, spec: &mut DecoderSpec, sliding: &[bool]) -> Result<()> {
    let window = config.size_or_none("sliding_window")?;
    if window.is_none() && sliding.contains(&true) {
        return Err(config.error("sliding_window", "is null, but some layers slide; name the window"));
    }
    for (layer, _) in spec.layers.iter_mut().zip(sliding).filter(|(_, sliding)| **sliding) {
        layer.attention.heads.window = window;
    }
    Ok(())
}

/// Renames the path of every module of a spec.
pub(super) fn rename(spec: &mut DecoderSpec, to: impl Fn(&str) -> String) {
    let change = |module: &mut String| *module = to(module);
    each_norm(spec, |norm| change(&mut norm.module));
    for layer in &mut spec.layers {
        match &mut layer.attention.qkv {
            QkvSpec::Separate(each) => each.iter_mut().for_each(|linear| change(&mut linear.module)),
            QkvSpec::Stacked(one) | QkvSpec::PerHead(one) => change(&mut one.module),
        }
        change(&mut layer.attention.output.module);
        match &mut layer.mlp {
            MlpSpec::Gated { gate, up, down, .. } => {
                [gate, up, down].into_iter().for_each(|linear| change(&mut linear.module));
            }
            MlpSpec::FusedGated { gate_up: up, down, .. } | MlpSpec::Plain { up, down, .. } => {
                [up, down].into_iter().for_each(|linear| change(&mut linear.module));
            }
        }
    }
    change(&mut spec.embedding);
    spec.positions.iter_mut().for_each(|positions| change(&mut positions.module));
    spec.head.iter_mut().for_each(|head| change(&mut head.module));
}

/// Applies `change` to every norm of a spec.
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

/// Sets whether queries, keys and values have a bias.
pub(super) fn qkv_bias(spec: &mut DecoderSpec, bias: bool) {
    for layer in &mut spec.layers {
        match &mut layer.attention.qkv {
            QkvSpec::Separate(each) => each.iter_mut().for_each(|linear| linear.bias = bias),
            QkvSpec::Stacked(one) | QkvSpec::PerHead(one) => one.bias = bias,
        }
    }
}

/// Sets whether attention's output projection has a bias.
pub(super) fn output_bias(spec: &mut DecoderSpec, bias: bool) {
    spec.layers.iter_mut().for_each(|layer| layer.attention.output.bias = bias);
}

/// Reads `attention_bias`, for all four projections of attention.
pub(super) fn attention_bias(config: &ConfigJson, spec: &mut DecoderSpec) -> Result<()> {
    let bias = config.flag("attention_bias")?;
    qkv_bias(spec, bias);
    output_bias(spec, bias);
    Ok(())
}

/// Sets whether the MLPs' projections have a bias.
pub(super) fn mlp_bias(spec: &mut DecoderSpec, bias: bool) {
    for layer in &mut spec.layers {
        match &mut layer.mlp {
            MlpSpec::Gated { gate, up, down, .. } => {
                [gate, up, down].into_iter().for_each(|linear| linear.bias = bias);
            }
            MlpSpec::FusedGated { gate_up: up, down, .. } | MlpSpec::Plain { up, down, .. } => {
                [up, down].into_iter().for_each(|linear| linear.bias = bias);
            }
        }
    }
}

/// Fuses gate and up projection into `mlp.gate_up_proj`.
pub(super) fn fuse_gate(spec: &mut DecoderSpec) {
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if let MlpSpec::Gated { gate, down, act, .. } = layer.mlp.clone() {
            let module = format!("model.layers.{i}.mlp.gate_up_proj");
            let gate_up = LinearSpec::new(module, spec.hidden, 2 * gate.outputs);
            layer.mlp = MlpSpec::FusedGated { gate_up, down, act };
        }
    }
}

/// Replaces the MLPs with ungated ones, `down(act(up(x)))`, under these names.
pub(super) fn plain_mlp(spec: &mut DecoderSpec, up_name: &str, down_name: &str) {
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if let MlpSpec::Gated { up, down, act, .. } = layer.mlp.clone() {
            let named = |linear: LinearSpec, name: &str| LinearSpec {
                module: format!("model.layers.{i}.mlp.{name}"),
                ..linear
            };
            layer.mlp = MlpSpec::Plain { up: named(up, up_name), down: named(down, down_name), act };
        }
    }
}

/// Places the norms after both branches, `post_attention_layernorm` and `post_feedforward_layernorm`, with none before.
pub(super) fn norms_after(spec: &mut DecoderSpec) {
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        layer.attention_norm = None;
        layer.post_attention_norm = layer.mlp_norm.take();
        let module = format!("model.layers.{i}.post_feedforward_layernorm");
        layer.post_mlp_norm = layer.post_attention_norm.clone().map(|norm| NormSpec { module, ..norm });
    }
}

/// Rotates pairs of neighbouring features instead of features half a head apart.
pub(super) fn interleave(spec: &mut DecoderSpec) {
    spec.rotations.iter_mut().for_each(|rotation| rotation.pairing = Pairing::Interleaved);
}

/// Adds norms over each head's queries and keys, of the final norm's kind.
pub(super) fn head_norms(spec: &mut DecoderSpec, names: [&str; 2]) {
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let [q, k] = names.map(|name| NormSpec {
            module: format!("model.layers.{i}.self_attn.{name}"),
            size: layer.attention.heads.head_dim,
            ..spec.final_norm.clone()
        });
        layer.attention.qk_norm = Some((q, k));
    }
}

/// The names of the query and key norms in most families.
pub(super) const QK_NORMS: [&str; 2] = ["q_norm", "k_norm"];

/// Reads heads that divide the hidden size evenly, each with its own keys.
pub(super) fn even_heads(config: &ConfigJson, hidden: usize, n_head_key: &str) -> Result<Heads> {
    let n_head = config.size(n_head_key)?;
    let head_dim = hidden / n_head;
    if head_dim * n_head != hidden || !head_dim.is_multiple_of(2) {
        let why = format!(
            "a hidden size of {hidden} does not give each of {n_head} heads an even number of features"
        );
        return Err(config.error(n_head_key, &why));
    }
    let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
    Ok(Heads { n_head, n_kv_head: n_head, head_dim, scale, softcap: None, window: None })
}

/// Sets the maximum positions to the range of a base that grows with the length.
pub(super) fn stretch(spec: &mut DecoderSpec) {
    for rotation in &spec.rotations {
        if let Some(ByLength::Dynamic { factor, max, .. }) = rotation.by_length {
            spec.max_positions = (max as f64 * factor) as usize;
        }
    }
}

/// Checks every spec before memory is allocated for it.
pub(super) fn check(config: &ConfigJson, spec: &DecoderSpec) -> Result<()> {
    // torch's embedding needs a row for it.
    if let Some(pad) = config.number_or_none("pad_token_id")?.filter(|pad| *pad >= spec.vocab_size as f64) {
        let why =
            format!("{pad} is outside the vocabulary of {}; name a token of it, or null", spec.vocab_size);
        return Err(config.error("pad_token_id", &why));
    }
    for layer in &spec.layers {
        let Heads { n_head, n_kv_head, head_dim, .. } = layer.attention.heads;
        let (q, kv) = (n_head * head_dim, n_kv_head * head_dim);
        let fits = match &layer.attention.qkv {
            QkvSpec::Separate(each) => each.iter().map(|linear| linear.outputs).eq([q, kv, kv]),
            QkvSpec::Stacked(one) | QkvSpec::PerHead(one) => one.outputs == q + 2 * kv,
        };
        if !fits || layer.attention.output.inputs != q {
            let why = format!(
                "{n_head} heads of {head_dim} features, {n_kv_head} of keys, do not fit the projections"
            );
            return Err(config.error("num_attention_heads", &why));
        }
        let turned = layer.attention.rotation.map_or(0, |index| 2 * spec.rotations[index].frequencies.len());
        if turned > layer.attention.heads.head_dim {
            return Err(
                config.error("rotary_dim", &format!("{turned} features are rotated, but a head has fewer"))
            );
        }
    }
    Ok(())
}

/// Creates an error for a setting that a family does not support.
pub(super) fn unsupported(config: &ConfigJson, key: &str, why: &str) -> Error {
    config.error(key, &format!("is not supported: {why}"))
}
