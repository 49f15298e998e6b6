//! Reading.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use candle_core::Device;
use memmap2::Mmap;
use safetensors::SafeTensors;

use super::{PREFIX, PeftConfig, WEIGHTS};
use crate::error::{Error, Problems, Result, nearest};
use crate::model::lora::{Lora, Slot};
use crate::model::spec::{DecoderSpec, LinearSpec};
use crate::model::targets::Patterns;
use crate::weights::{SafetensorsSource, WeightSource};

/// An adapter as read.
#[derive(Debug)]
pub struct Adapter {
    /// Its matrices, fitted to the decoder.
    pub lora: Lora,
    /// Its settings.
    pub config: PeftConfig,
    /// The metadata of its weights file.
    pub metadata: BTreeMap<String, String>,
}

/// Reads the adapter in `directory` for a decoder.
///
/// # Errors
/// If a file is missing or damaged, a tensor belongs to no linear module of the decoder, a pair lacks a half, or a shape
/// does not fit; all mismatches are named at once.
pub fn read(directory: &Path, spec: &DecoderSpec, device: &Device) -> Result<Adapter> {
    let config = PeftConfig::open(directory)?;
    let path = directory.join(WEIGHTS);
    if !path.exists() && directory.join("adapter_model.bin").exists() {
        return Err(Error::Adapter(format!(
            "{} holds a pickled adapter_model.bin, which is not read; save it with PEFT's save_pretrained",
            directory.display()
        )));
    }
    let source = SafetensorsSource::open_files(directory, std::slice::from_ref(&path))?;
    let within = |e: Error| Error::Adapter(format!("{}: {e}", path.display()));
    let pairs = pairs(&source, spec).map_err(within)?;
    let slots = slots(&pairs, &config).map_err(within)?;
    let mut lora = Lora::zeros(slots, device)?;
    let mut values = lora.values().to_vec();
    for slot in lora.slots() {
        for (name, range) in [(&pairs[&slot.module].a, slot.a()), (&pairs[&slot.module].b, slot.b())] {
            source.get(name)?.elements().widen_into(&mut values[range]);
        }
    }
    if let Some(at) = values.iter().position(|x| !x.is_finite()) {
        let module = lora.slots().iter().find(|s| s.b().end > at).map_or("?", |s| s.module.as_str());
        return Err(within(Error::Adapter(format!("{module} holds {}; the adapter is damaged", values[at]))));
    }
    lora.update(|all| all.copy_from_slice(&values))?;
    Ok(Adapter { lora, config, metadata: metadata(&path)? })
}

/// The tensors of one module.
struct Pair<'a> {
    linear: &'a LinearSpec,
    a: String,
    b: String,
    rank: usize,
}

/// Sorts the file's tensors into pairs that fit the decoder.
fn pairs<'a>(source: &SafetensorsSource, spec: &'a DecoderSpec) -> Result<BTreeMap<String, Pair<'a>>> {
    let linears: BTreeMap<&str, &LinearSpec> = spec.linears().map(|l| (l.module.as_str(), l)).collect();
    let mut problems = Problems::default();
    let mut halves: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
    for name in source.names() {
        match half(&name) {
            Some((module, index)) if linears.contains_key(module.as_str()) => {
                halves.entry(module).or_default()[index] = Some(name);
            }
            Some((module, _)) => {
                let hint = nearest(&module, linears.keys().copied())
                    .map_or(String::new(), |n| format!("; is it {n}?"));
                problems.add(format!(
                    "{name} adapts {module}, which is no linear module of this {}{hint}",
                    spec.model_type
                ));
            }
            None => problems
                .add(format!("{name} is no lora_A or lora_B of a linear module and cannot be honoured")),
        }
    }
    let mut pairs = BTreeMap::new();
    for (module, both) in halves {
        let linear = linears[module.as_str()];
        let [Some(a), Some(b)] = both else {
            problems.add(format!("{module} has only half of its pair lora_A, lora_B"));
            continue;
        };
        let shape = |name: &str| source.shape(name).unwrap_or_default();
        let (shape_a, shape_b) = (shape(&a), shape(&b));
        let fits =
            shape_a.len() == 2 && shape_a[1] == linear.inputs && shape_b == [linear.outputs, shape_a[0]];
        problems.require(fits && shape_a[0] > 0, || {
            format!(
                "{module} has lora_A {shape_a:?} and lora_B {shape_b:?}; this base needs [r, {}] and [{}, r]",
                linear.inputs, linear.outputs
            )
        });
        let rank = shape_a.first().copied().unwrap_or(0);
        pairs.insert(module, Pair { linear, a, b, rank });
    }
    problems.require(!source.names().is_empty(), || "there are no tensors".into());
    problems.finish().map_err(|e| Error::Adapter(e.to_string()))?;
    Ok(pairs)
}

/// Module and half (0 for A, 1 for B) of a tensor name.
fn half(name: &str) -> Option<(String, usize)> {
    let path = name.strip_prefix(PREFIX)?;
    // `default` is the adapter's name in files saved by hand from a PEFT model's state.
    let path = path.strip_suffix(".weight")?;
    let path = path.strip_suffix(".default").unwrap_or(path);
    let split = |suffix, index| path.strip_suffix(suffix).map(|module: &str| (module.to_string(), index));
    split(".lora_A", 0).or_else(|| split(".lora_B", 1))
}

fn slots(pairs: &BTreeMap<String, Pair>, config: &PeftConfig) -> Result<Vec<Slot>> {
    let rules = config.rules();
    let patterns = Patterns::new(&rules)?;
    let mut problems = Problems::default();
    let mut slots = Vec::new();
    for (module, pair) in pairs {
        let (said, alpha) = (patterns.rank_for(module)?, patterns.alpha_for(module)?);
        problems.require(said == pair.rank, || {
            format!("{module} has rank {}, but adapter_config.json gives it r = {said}", pair.rank)
        });
        slots.push(Slot::new(pair.linear, pair.rank, alpha, patterns.scaling_for(module)?));
    }
    problems.finish().map_err(|e| Error::Adapter(e.to_string()))?;
    Ok(slots)
}

/// The `__metadata__` of a safetensors file.
///
/// # Errors
/// If the file is missing or its header damaged.
pub fn metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    let file = File::open(path).map_err(Error::read(path))?;
    // SAFETY: read-only, for the length of this function; see `SafetensorsSource`.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::read(path))?;
    let (_, header) =
        SafeTensors::read_metadata(&map).map_err(|e| Error::Adapter(format!("{}: {e}", path.display())))?;
    Ok(header.metadata().clone().unwrap_or_default().into_iter().collect())
}
