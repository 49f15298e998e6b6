//! Prefix tuning: one tensor `prompt_embeddings [tokens, layers·2·token_dim]`. A token's row has the key and the value of each
//! layer in turn, `n_kv_head·head_dim` numbers each (PEFT 0.21, `get_prompt`).

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::PeftConfig;
use super::config::PREFIX as KIND;
use crate::error::{Error, Problems, Result};
use crate::model::spec::DecoderSpec;
use crate::trainable::{Adapter, Adapters, Prefix, PrefixEncoder, ProjectedPrefix};
use crate::weights::{SafetensorsSource, WeightSource};

/// The tensor's name.
const NAME: &str = "prompt_embeddings";

/// The features of a key in every layer, and the number of key heads; PEFT's file has one of each.
///
/// # Errors
/// If layers differ.
pub fn width(spec: &DecoderSpec) -> Result<(usize, usize)> {
    crate::model::prefixed::check(spec)?;
    let of = |heads: &crate::ops::tree_attention::Heads| (heads.n_kv_head * heads.head_dim, heads.n_kv_head);
    let mut all = spec.layers.iter().map(|layer| of(&layer.attention.heads));
    let first = all.next().unwrap_or((0, 0));
    match all.find(|other| *other != first) {
        None => Ok(first),
        Some(_) => Err(Error::Adapter(format!(
            "layers of {} have keys of different sizes, and a file of prefix tuning has one; use LoRA",
            spec.model_type
        ))),
    }
}

/// The layers' prefixes, for as many tokens.
///
/// # Errors
/// As `width`.
pub fn of(spec: &DecoderSpec, tokens: usize) -> Result<Vec<Prefix>> {
    let (width, _) = width(spec)?;
    let modules = spec.layers.iter().map(|layer| layer.attention.module().to_string());
    Ok(modules.map(|module| Prefix::new(module, tokens, width)).collect())
}

/// The layers' prefixes behind a network with `hidden` features, and what they share; `None`: those of a key, PEFT's default.
///
/// # Errors
/// As `width`.
pub fn projected(spec: &DecoderSpec, tokens: usize, hidden: Option<usize>) -> Result<Vec<Adapter>> {
    let (width, _) = width(spec)?;
    let hidden = hidden.unwrap_or(width);
    let modules = spec.layers.iter().map(|layer| layer.attention.module().to_string());
    let layers = modules.map(|module| ProjectedPrefix::new(module, tokens, width, hidden).into());
    Ok(layers.chain([PrefixEncoder::new(tokens, width, hidden).into()]).collect())
}

/// Reads the tensor.
///
/// # Errors
/// If it is missing, has another shape than the settings or the base say, or there are others.
pub(super) fn read(source: &SafetensorsSource, spec: &DecoderSpec, config: &PeftConfig) -> Result<Adapters> {
    let (width, heads) = width(spec)?;
    let layers = spec.layers.len();
    let mut problems = Problems::default();
    for name in source.names().iter().filter(|name| *name != NAME) {
        problems.add(format!("{} does not belong to prefix tuning", super::super::names::shown(name)));
    }
    let shape = source.shape(NAME).unwrap_or_default();
    let tokens = shape.first().copied().unwrap_or(0);
    problems.require(tokens > 0 && shape == [tokens, layers * 2 * width], || {
        format!(
            "{NAME} is {shape:?}; this base needs [num_virtual_tokens, {}], two of {width} numbers for each of {layers} layers",
            layers * 2 * width
        )
    });
    let expected = [
        ("num_virtual_tokens", config.num_virtual_tokens, tokens),
        ("num_layers", config.num_layers, layers),
        ("token_dim", config.token_dim, width),
        ("num_attention_heads", config.num_attention_heads, heads),
        ("num_transformer_submodules", config.num_transformer_submodules, 1),
    ];
    for (key, said, needed) in expected {
        problems.require(said.is_none_or(|said| said == needed), || {
            format!(
                "adapter_config.json says {key}: {}, and tensor and base have {needed}",
                said.unwrap_or_default()
            )
        });
    }
    problems.finish().map_err(|error| Error::Adapter(error.to_string()))?;
    let mut adapters = Adapters::zeros(of(spec, tokens)?)?;
    let rows = source.get(NAME)?.elements().to_f32();
    let places = places(&adapters, spec)?;
    adapters.update(|values| {
        for (token, row) in rows.chunks_exact((layers * 2 * width).max(1)).enumerate() {
            for (part, at) in row.chunks_exact(width.max(1)).zip(&places) {
                values[at + token * width..at + (token + 1) * width].copy_from_slice(part);
            }
        }
    });
    Ok(adapters)
}

/// Where the keys and the values of each layer begin, in the order of the file.
fn places(adapters: &Adapters, spec: &DecoderSpec) -> Result<Vec<usize>> {
    let mut all = Vec::new();
    for layer in &spec.layers {
        let module = layer.attention.module();
        let Some(Adapter::Prefix(prefix)) = adapters.find(module) else {
            return Err(Error::Adapter(format!(
                "{module} has no prefix, and a file of prefix tuning has all layers"
            )));
        };
        all.extend([prefix.keys().start, prefix.values().start]);
    }
    Ok(all)
}

/// Whether these are prefixes.
pub(super) fn is_kind(adapters: &Adapters) -> bool {
    adapters.iter().any(|adapter| matches!(adapter, Adapter::Prefix(_)))
}

/// The number of virtual tokens, if all layers have a prefix of one length and nothing else is adapted.
fn tokens(adapters: &Adapters, spec: &DecoderSpec) -> Result<usize> {
    let mut tokens = None;
    for adapter in adapters.iter() {
        match adapter {
            Adapter::Prefix(prefix) if tokens.is_none_or(|tokens| tokens == prefix.tokens) => {
                tokens = Some(prefix.tokens);
            }
            other => {
                return Err(Error::Adapter(format!(
                    "{} has {} beside the prefix of other modules; a file of prefix tuning has prefixes of one length",
                    other.module(),
                    other.kind()
                )));
            }
        }
    }
    places(adapters, spec)?;
    Ok(tokens.unwrap_or(0))
}

/// PEFT's `PrefixTuningConfig`.
pub(super) fn config(adapters: &Adapters, spec: &DecoderSpec, base: &str) -> Result<Value> {
    let (width, heads) = width(spec)?;
    Ok(json!({
        "peft_type": KIND,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": true,
        "num_virtual_tokens": tokens(adapters, spec)?,
        "token_dim": width,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": spec.layers.len(),
        "encoder_hidden_size": width,
        "prefix_projection": false,
    }))
}

/// The numbers of the tensor, and its shape.
pub(super) fn rows(adapters: &Adapters, spec: &DecoderSpec) -> Result<(Vec<f32>, Vec<usize>)> {
    let (width, _) = width(spec)?;
    let (tokens, places) = (tokens(adapters, spec)?, places(adapters, spec)?);
    let values = adapters.values();
    let mut rows = Vec::with_capacity(values.len());
    for token in 0..tokens {
        for at in &places {
            rows.extend_from_slice(&values[at + token * width..at + (token + 1) * width]);
        }
    }
    Ok((rows, vec![tokens, places.len() * width]))
}

/// The tensor as it is written.
pub(super) fn view<'a>(rows: &'a [f32], shape: &[usize]) -> Result<(String, TensorView<'a>)> {
    let view = TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(rows));
    Ok((NAME.into(), view.map_err(|e| Error::Adapter(format!("{NAME}: {e}")))?))
}
