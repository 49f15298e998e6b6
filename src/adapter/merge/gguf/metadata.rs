//! The metadata of a merged GGUF model.

use serde_json::Value as Json;

use super::super::super::gguf::Architecture;
use super::super::super::gguf_writer::Value;
use super::super::Base;
use super::keys::{Keys, untold};
use super::mix::FileType;
use super::rotary::Rope;
use super::tokenizer;
use crate::error::{Error, Problems, Result};
use crate::model::spec::{DecoderSpec, LayerSpec, MlpSpec};
use crate::ops::gated_act::Activation;

/// One in this many layers of Gemma 3 has full attention, unless the file says otherwise.
const GEMMA3_PERIOD: usize = 6;
/// Number of layers of Gemma 3 27B, by which llama.cpp recognises it (`src/models/gemma3.cpp`): only it has another scale of
/// attention.
const GEMMA3_LARGEST: usize = 62;

/// Returns all keys, in the converter's order. `config` is the base's, with the chat template that replaces its own.
///
/// # Errors
/// If llama.cpp would compute something else, or the tokenizer cannot be represented.
pub(super) fn of(
    base: &Base,
    architecture: &Architecture,
    (config, template): (&Json, Option<&str>),
    kind: FileType,
    rope: &Rope,
) -> Result<Vec<(String, Value)>> {
    check(base.spec, rope, architecture.name)?;
    let mut keys = Keys::new(architecture.name);
    keys.put("general.architecture", Value::Text(architecture.name.into()));
    keys.put("general.type", Value::Text("model".into()));
    keys.put("general.file_type", Value::U32(kind.id()));
    keys.put("general.quantization_version", Value::U32(2));
    let spec = base.spec;
    let Some(first) = spec.layers.first() else { return Err(Error::Model("the base has no layers".into())) };
    let heads = first.attention.heads;
    keys.number("block_count", spec.layers.len());
    keys.number("context_length", spec.max_positions);
    keys.number("embedding_length", spec.hidden);
    keys.number("feed_forward_length", intermediate(first));
    keys.number("attention.head_count", heads.n_head);
    keys.number("attention.head_count_kv", heads.n_kv_head);
    keys.number("attention.key_length", heads.head_dim);
    keys.number("attention.value_length", heads.head_dim);
    keys.number("vocab_size", spec.vocab_size);
    keys.number("rope.dimension_count", heads.head_dim);
    keys.float("attention.layer_norm_rms_epsilon", spec.final_norm.eps);
    rope.put(&mut keys);
    if let Some(window) = spec.layers.iter().find_map(|layer| layer.attention.heads.window) {
        keys.number("attention.sliding_window", window);
        if let Some(period) = period(spec).filter(|period| *period != GEMMA3_PERIOD) {
            keys.number("attention.sliding_window_pattern", period);
        }
    }
    if let Some(cap) = spec.logits.softcap {
        keys.float("final_logit_softcapping", f64::from(cap));
    }
    keys.keys.extend(tokenizer::of(base.directory, spec.vocab_size, (config, template))?);
    Ok(keys.keys)
}

fn intermediate(layer: &LayerSpec) -> usize {
    match &layer.mlp {
        MlpSpec::Gated { down, .. } | MlpSpec::FusedGated { down, .. } | MlpSpec::Plain { down, .. } => {
            down.inputs
        }
    }
}

/// The last one of this many layers has full attention, the others a window (`set_swa_pattern` of `src/llama-hparams.cpp`).
fn period(spec: &DecoderSpec) -> Option<usize> {
    let slides = |layer: &LayerSpec| layer.attention.heads.window.is_some();
    let layers = spec.layers.len();
    let fits = |period: usize| {
        spec.layers.iter().enumerate().all(|(i, layer)| slides(layer) == (i % period < period - 1))
    };
    [GEMMA3_PERIOD].into_iter().chain(1..=layers + 1).find(|period| fits(*period))
}

/// What llama.cpp assumes about these families; every difference is named.
fn check(spec: &DecoderSpec, rope: &Rope, architecture: &str) -> Result<()> {
    let gemma = architecture == "gemma3";
    let mut problems = Problems::default();
    let mut require = |holds: bool, what: &str| problems.require(holds, || untold(what));
    require(spec.logits.scale == 1.0, "the logits' scale");
    require(spec.logits.softcap.is_none() || gemma, "the logits' soft-cap (final_logit_softcapping)");
    let scale = if gemma { (spec.hidden as f32).sqrt() } else { 1.0 };
    require((spec.embedding_scale / scale - 1.0).abs() < 0.01, "the embedding's scale");
    require(
        spec.layers.iter().all(|layer| layer.residual_scale == 1.0 && !layer.parallel),
        "the residual sums",
    );
    let heads = |layer: &LayerSpec| layer.attention.heads;
    let first = spec.layers.first().map(heads);
    let scaled_by = |layer: &LayerSpec| match heads(layer) {
        of if gemma && spec.layers.len() == GEMMA3_LARGEST => spec.hidden / of.n_head.max(1),
        of => of.head_dim,
    };
    require(
        spec.layers.iter().all(|layer| {
            let of = heads(layer);
            of.softcap.is_none() && (of.scale * (scaled_by(layer) as f32).sqrt() - 1.0).abs() < 1e-4
        }),
        "attention's scale or soft-cap (query_pre_attn_scalar, attn_logit_softcapping)",
    );
    let sizes = |layer: &LayerSpec| (heads(layer).n_head, heads(layer).n_kv_head, heads(layer).head_dim);
    require(
        spec.layers
            .iter()
            .all(|layer| Some(sizes(layer)) == first.map(|h| (h.n_head, h.n_kv_head, h.head_dim))),
        "heads that differ by layer",
    );
    // `create_tensor_qkv` of `src/models/qwen2.cpp`
    let wide = first.is_some_and(|h| h.n_head * h.head_dim != spec.hidden);
    require(architecture != "qwen2" || !wide, "heads that are not hidden_size together (head_dim)");
    require(spec.layers.iter().all(|layer| layer.attention.rotation.is_some()), "layers without positions");
    let slides = spec.layers.iter().any(|layer| heads(layer).window.is_some());
    if gemma {
        require(!slides || period(spec).is_some(), "which layers slide (layer_types)");
        let windows = spec.layers.iter().filter_map(|layer| heads(layer).window);
        require(windows.clone().max() == windows.min(), "windows that differ by layer");
    } else {
        require(!slides, "a sliding window (sliding_window)");
    }
    let act = if gemma { Activation::GeluTanh } else { Activation::Silu };
    require(spec.layers.iter().all(|layer| activation(layer) == act), "the MLP's nonlinearity (hidden_act)");
    require(norms(spec).all(|eps| eps == spec.final_norm.eps), "norms of different eps");
    require(!rope.is_llama3() || architecture == "llama", "llama3 rope scaling (rope_scaling.rope_type)");
    problems.finish().map_err(|e| Error::Adapter(e.to_string()))
}

fn activation(layer: &LayerSpec) -> Activation {
    match &layer.mlp {
        MlpSpec::Gated { act, .. } | MlpSpec::FusedGated { act, .. } | MlpSpec::Plain { act, .. } => *act,
    }
}

/// The eps of every norm of the blocks.
fn norms(spec: &DecoderSpec) -> impl Iterator<Item = f64> {
    spec.layers.iter().flat_map(|layer| {
        let (q, k) = layer.attention.qk_norm.as_ref().map_or((None, None), |(q, k)| (Some(q), Some(k)));
        let around =
            [&layer.attention_norm, &layer.post_attention_norm, &layer.mlp_norm, &layer.post_mlp_norm];
        around.into_iter().filter_map(Option::as_ref).chain(q).chain(k).map(|norm| norm.eps)
    })
}
