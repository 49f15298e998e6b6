//! Adapter layers (Houlsby et al. 2019). PEFT has no such adapter, so the format is this program's own: `adapter_config.json`
//! with `peft_type: ADAPTER_LAYERS`, which PEFT refuses, `bottleneck_size`, `non_linearity` and `target_modules`; and the tensors
//! `base_model.model.<module>.adapter_down.weight [size, features]`, `.adapter_down.bias`, `.adapter_up.weight [features, size]`
//! and `.adapter_up.bias`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::{layout, names};
use super::config::LAYERS as KIND;
use super::{PREFIX, PeftConfig};
use crate::error::{Error, Problems, Result};
use crate::model::spec::{DecoderSpec, LinearSpec};
use crate::ops::gated_act::Activation;
use crate::trainable::bottleneck::NAMES;
use crate::trainable::{Adapter, Adapters, Bottleneck};
use crate::weights::{SafetensorsSource, WeightSource};

/// Reads the layers.
///
/// # Errors
/// If a tensor belongs to no linear module of the base, is missing, or has another shape than the settings say; all
/// problems are named.
pub(super) fn read(source: &SafetensorsSource, spec: &DecoderSpec, config: &PeftConfig) -> Result<Adapters> {
    let (size, act) = settings(config)?;
    let linears: BTreeMap<&str, &LinearSpec> = spec.linears().map(|l| (l.module.as_str(), l)).collect();
    let mut problems = Problems::default();
    let mut found: BTreeMap<String, [Option<String>; 4]> = BTreeMap::new();
    for name in source.names() {
        match place(&name, &linears) {
            Some((module, at)) => found.entry(module).or_default()[at] = Some(name),
            None => problems.add(format!(
                "{} does not belong to an adapter layer behind a linear module of this {}",
                names::shown(&name),
                spec.model_type
            )),
        }
    }
    problems.require(!found.is_empty() || !problems.is_empty(), || "there are no tensors".into());
    let mut layers = Vec::new();
    for (module, tensors) in &found {
        let layer = Bottleneck::new(linears[module.as_str()], size, act);
        for (at, (suffix, shape)) in Adapter::from(layer.clone()).tensors().into_iter().enumerate() {
            let given = tensors[at].as_deref().and_then(|name| source.shape(name));
            problems.require(given.as_ref() == Some(&shape), || match &given {
                None => format!("{module} has no {suffix}"),
                Some(given) => {
                    format!("{module}.{suffix} is {given:?}; bottleneck_size and base need {shape:?}")
                }
            });
        }
        layers.push(layer);
    }
    problems.finish().map_err(|error| Error::Adapter(error.to_string()))?;
    let mut adapters = Adapters::zeros(layers)?;
    let mut values = adapters.values().to_vec();
    for (module, suffix, entry) in adapters.tensors() {
        let at = NAMES.iter().position(|name| *name == suffix);
        let name = at.and_then(|at| found.get(module)?[at].as_ref());
        let name = name.ok_or_else(|| Error::Adapter(format!("{module} has no {suffix}")))?;
        source.get(name)?.elements().widen_into(&mut values[entry.range.clone()]);
    }
    adapters.update(|all| all.copy_from_slice(&values));
    Ok(adapters)
}

/// The module of a tensor, and which of [`NAMES`] it is.
fn place(name: &str, linears: &BTreeMap<&str, &LinearSpec>) -> Option<(String, usize)> {
    let path = name.strip_prefix(PREFIX)?;
    let split = |(at, suffix): (usize, &&str)| Some((path.strip_suffix(suffix)?.strip_suffix('.')?, at));
    let (own, at) = NAMES.iter().enumerate().find_map(split)?;
    Some((layout::module_of(own, |module| linears.contains_key(module))?, at))
}

fn settings(config: &PeftConfig) -> Result<(usize, Activation)> {
    let size = config.bottleneck_size.filter(|size| (1..=LARGEST).contains(size)).ok_or_else(|| {
        Error::Adapter(format!(
            "bottleneck_size is missing or not from 1 to {LARGEST} in adapter_config.json"
        ))
    })?;
    let name = config.non_linearity.as_deref().unwrap_or_default();
    let act = Activation::by_name(name).ok_or_else(|| {
        Error::Adapter(format!(
            "non_linearity is {} in adapter_config.json; it is relu, gelu, silu or gelu_new",
            names::shown(name)
        ))
    })?;
    Ok((size, act))
}

/// The largest size of a bottleneck.
const LARGEST: usize = 1 << 16;

/// Whether these are adapter layers.
pub(super) fn is_kind(adapters: &Adapters) -> bool {
    adapters.iter().any(|adapter| matches!(adapter, Adapter::Bottleneck(_)))
}

/// The settings as they are written.
///
/// # Errors
/// If they differ between modules, or other modules have another kind of adapter.
pub(super) fn config(
    adapters: &Adapters,
    target_modules: Vec<String>,
    dropout: f64,
    base: &str,
) -> Result<Value> {
    let mut first = None;
    for adapter in adapters.iter() {
        match adapter {
            Adapter::Bottleneck(layer) if first.is_none_or(|it| it == (layer.size, layer.act)) => {
                first = Some((layer.size, layer.act));
            }
            other => {
                return Err(Error::Adapter(format!(
                    "{} has {} that differs from those of other modules; one directory holds adapter layers of one size",
                    other.module(),
                    other.kind()
                )));
            }
        }
    }
    let (size, act) = first.unwrap_or((1, Activation::Relu));
    Ok(json!({
        "peft_type": KIND,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": true,
        "bottleneck_size": size,
        "non_linearity": act.name(),
        "lora_dropout": dropout,
        "target_modules": target_modules,
    }))
}
