//! Reading.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::Device;
use memmap2::Mmap;
use safetensors::SafeTensors;

use super::super::{head, names};
use super::{PREFIX, PeftConfig, WEIGHTS};
use crate::error::{Error, Problems, Result};
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
    read_with(directory, spec, device, false)
}

/// As [`read`]; with `head`, the language-model head may be adapted too, with which the decoder does not compute.
///
/// # Errors
/// As [`read`].
pub fn read_with(directory: &Path, spec: &DecoderSpec, device: &Device, head: bool) -> Result<Adapter> {
    let config = PeftConfig::open(directory)?;
    let of_head = head::linear(spec);
    let linears = spec.linears().chain(head.then_some(&of_head));
    let modules = Modules {
        linears: linears.map(|linear| (linear.module.clone(), linear.clone())).collect(),
        family: &spec.model_type,
        head: &of_head.module,
    };
    read_matrices(directory, &modules, device, config)
}

/// Reads the adapter in `directory` by itself: the sizes of modules are those of their matrices.
///
/// # Errors
/// As [`read`], but for what only a base can tell.
pub fn read_alone(directory: &Path, device: &Device) -> Result<Adapter> {
    let config = PeftConfig::open(directory)?;
    let path = weights_path(directory)?;
    let source = SafetensorsSource::open_files(directory, std::slice::from_ref(&path))?;
    let mut linears = BTreeMap::new();
    for name in source.names() {
        let Some((module, index)) = half(&name) else { continue };
        let linear = linears.entry(module.clone()).or_insert_with(|| LinearSpec::new(module, 0, 0));
        let shape = source.shape(&name).unwrap_or_default();
        match index {
            0 => linear.inputs = shape.get(1).copied().unwrap_or(0),
            _ => linear.outputs = shape.first().copied().unwrap_or(0),
        }
    }
    read_matrices(directory, &Modules { linears, family: "adapter", head: "" }, device, config)
}

/// Where the weights are.
fn weights_path(directory: &Path) -> Result<PathBuf> {
    let path = directory.join(WEIGHTS);
    if !path.exists() && directory.join("adapter_model.bin").exists() {
        return Err(Error::Adapter(format!(
            "{} holds a pickled adapter_model.bin, which is not read; save it with PEFT's save_pretrained",
            directory.display()
        )));
    }
    Ok(path)
}

/// The linear modules that may be adapted.
struct Modules<'a> {
    linears: BTreeMap<String, LinearSpec>,
    /// Whose they are, for messages.
    family: &'a str,
    /// The head, whether or not it is among them.
    head: &'a str,
}

fn read_matrices(
    directory: &Path,
    modules: &Modules,
    device: &Device,
    config: PeftConfig,
) -> Result<Adapter> {
    let path = weights_path(directory)?;
    let source = SafetensorsSource::open_files(directory, std::slice::from_ref(&path))?;
    let within = |e: Error| Error::Adapter(format!("{}: {e}", path.display()));
    let pairs = pairs(&source, modules).map_err(within)?;
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
fn pairs<'a>(source: &SafetensorsSource, modules: &'a Modules) -> Result<BTreeMap<String, Pair<'a>>> {
    let Modules { linears, family, head } = modules;
    let (mut problems, mut strangers) = (Problems::default(), Vec::new());
    let mut halves: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
    for name in source.names() {
        match half(&name).map(|(module, index)| (text_module(module, linears), index)) {
            Some((module, index)) if linears.contains_key(&module) => {
                if let Some(other) = halves.entry(module).or_default()[index].replace(name.clone()) {
                    problems.add(format!("{name} and {other} are the same matrix of one module"));
                }
            }
            Some((module, _)) if module == *head => problems.add(format!(
                "{name} adapts the head {module}, which merge, export and inspect take, but no command that computes with it"
            )),
            Some((module, _)) => strangers.push(format!(
                "{} adapts {}, which is no linear module of this {family}{}",
                names::shown(&name),
                names::shown(&module),
                names::hint(&module, linears.keys().map(String::as_str))
            )),
            None => strangers.push(format!(
                "{} is no lora_A or lora_B of a linear module and cannot be honoured",
                names::shown(&name)
            )),
        }
        if strangers.len() >= names::MOST_TOLD {
            strangers.push("... and perhaps more".into());
            break;
        }
    }
    strangers.into_iter().for_each(|stranger| problems.add(stranger));
    let mut pairs = BTreeMap::new();
    for (module, both) in halves {
        let linear = &linears[&module];
        let [Some(a), Some(b)] = both else {
            problems.add(format!("{module} has only half of its pair lora_A, lora_B"));
            continue;
        };
        let shape = |name: &str| source.shape(name).unwrap_or_default();
        let (shape_a, shape_b) = (shape(&a), shape(&b));
        let fits =
            shape_a.len() == 2 && shape_a[1] == linear.inputs && shape_b == [linear.outputs, shape_a[0]];
        let some = linear.inputs > 0 && linear.outputs > 0 && shape_a.first() != Some(&0);
        problems.require(fits && some, || {
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

/// What wrappers put into the paths of modules: torch.compile, FSDP, activation checkpointing.
const WRAPPERS: &[&str] = &["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];

/// The module as the decoder names it: without the `language_model` of a model that also sees (Unsloth's Gemma 3).
fn text_module(module: String, linears: &BTreeMap<String, LinearSpec>) -> String {
    let text = module.replacen("language_model.", "", 1);
    if !linears.contains_key(&module) && linears.contains_key(&text) { text } else { module }
}

/// Module and half (0 for A, 1 for B) of a tensor name.
fn half(name: &str) -> Option<(String, usize)> {
    let name = WRAPPERS.iter().fold(name.to_string(), |name, wrapper| name.replace(wrapper, ""));
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
