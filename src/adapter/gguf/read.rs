//! Reads GGUF adapters: the inverse of what llama.cpp's converters and this crate write.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::names::{MOST_TOLD, shown};
use super::super::peft::FINGERPRINT_KEY;
use super::super::read::{Adapter, Format};
use super::super::twin::{SKETCH_KEY, Sketch};
use super::super::{head, names};
use super::{Architecture, BASE_KEY, Place, find_architecture, places, source_row};
use crate::error::{Error, Problems, Result};
use crate::model::spec::{DecoderSpec, LinearSpec};
use crate::trainable::{Adapters, Lora};
use crate::weights::gguf::GgufFile;

/// How the keys begin that this program adds to those of llama.cpp.
const OWN: &str = "dpo_lora.";

/// Reads a GGUF adapter for a decoder; with `head`, the language-model head may be adapted too.
///
/// # Errors
/// If the file is damaged, no LoRA adapter or one of another architecture, or a tensor does not fit; all misfits are named
/// at once.
pub fn read(path: &Path, spec: &DecoderSpec, head: bool) -> Result<Adapter> {
    let within = |e: Error| Error::Adapter(format!("{}: {e}", path.display()));
    let file = GgufFile::open(path)?;
    let architecture = find_architecture(spec)?;
    let alpha = check(&file, architecture).map_err(within)?;
    let of_head = head::linear(spec);
    let pairs = pairs(&file, spec, architecture, head.then_some(&of_head)).map_err(within)?;
    let loras = pairs.values().map(|pair| {
        let rank = pair.rank as f64;
        // llama.cpp treats an alpha of 0 as "no alpha": a scale of 1.
        let alpha = if alpha == 0.0 { rank } else { alpha };
        Lora::new(pair.linear, pair.rank, alpha, alpha / rank)
    });
    let mut adapters = Adapters::zeros(loras)?;
    let mut values = adapters.values().to_vec();
    for lora in adapters.loras("a GGUF adapter")? {
        let Pair { place, .. } = &pairs[&lora.module];
        values[lora.a()].copy_from_slice(&file.to_f32(&place.half("lora_a"))?);
        let b = file.to_f32(&place.half("lora_b"))?;
        let target = &mut values[lora.b()];
        for (row, numbers) in b.chunks_exact(lora.rank).enumerate() {
            let to = source_row(row, lora.outputs, place.heads) * lora.rank;
            target[to..to + lora.rank].copy_from_slice(numbers);
        }
    }
    adapters.update(|all| all.copy_from_slice(&values));
    if let Some((module, _)) = adapters.not_finite() {
        return Err(within(Error::Adapter(format!(
            "{module} holds numbers that are not finite; it is damaged"
        ))));
    }
    let text = |key: &str| file.metadata().text(key).map(|text| text.map(String::from));
    let (base, fingerprint) = (text(BASE_KEY)?, text(FINGERPRINT_KEY)?);
    let sketch = text(SKETCH_KEY)?.and_then(|text| Sketch::from_text(&text).ok());
    Ok(Adapter { adapters, base, fingerprint, sketch, format: Format::Gguf, notes: Vec::new() })
}

/// Returns the texts that this program has put into the metadata of a GGUF adapter, by key.
///
/// # Errors
/// If the file cannot be read or is damaged.
pub fn metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    let file = GgufFile::open(path)?;
    let metadata = file.metadata();
    let text = |key: &str| Some((key.to_string(), metadata.text(key).ok()??.to_string()));
    Ok(metadata.keys().filter(|key| key.starts_with(OWN)).filter_map(text).collect())
}

/// Checks that it is a LoRA adapter of this architecture; returns its alpha.
fn check(file: &GgufFile, architecture: &Architecture) -> Result<f64> {
    let metadata = file.metadata();
    let mut problems = Problems::default();
    for (key, needed) in
        [("general.type", "adapter"), ("adapter.type", "lora"), ("general.architecture", architecture.name)]
    {
        let found = metadata.text(key)?;
        problems.require(found == Some(needed), || {
            let found = found.map_or("missing".into(), |found| format!("{:?}", shown(found)));
            format!("{key} is {found}, but an adapter for this base has {needed:?}")
        });
    }
    problems.require(metadata.get("adapter.alora.invocation_tokens").is_none(), || {
        "adapter.alora.invocation_tokens is set: activation from a certain token on (aLoRA) is not supported".into()
    });
    let alpha = metadata.float("adapter.lora.alpha")?;
    problems.require(alpha.is_some(), || "adapter.lora.alpha is missing".into());
    problems.finish().map_err(|e| Error::Adapter(e.to_string()))?;
    Ok(alpha.unwrap_or(0.0))
}

/// Both matrices of one module.
struct Pair<'a> {
    linear: &'a LinearSpec,
    place: Place,
    rank: usize,
}

impl Place {
    fn half(&self, half: &str) -> String {
        format!("{}.weight.{half}", self.tensor)
    }
}

fn pairs<'a>(
    file: &GgufFile,
    spec: &'a DecoderSpec,
    architecture: &Architecture,
    of_head: Option<&'a LinearSpec>,
) -> Result<BTreeMap<String, Pair<'a>>> {
    let mut known = places(spec, architecture);
    known.retain(|_, (_, place)| place.tensor != "output");
    known.extend(
        of_head.map(|head| (head.module.as_str(), (head, Place { tensor: "output".into(), heads: None }))),
    );
    let known: BTreeMap<String, (&LinearSpec, Place)> =
        known.into_values().map(|(linear, place)| (place.tensor.clone(), (linear, place))).collect();
    let (mut problems, mut strangers) = (Problems::default(), Vec::new());
    let mut pairs = BTreeMap::new();
    for tensor in file.tensors() {
        if strangers.len() >= MOST_TOLD {
            strangers.push("... and perhaps more".into());
            break;
        }
        let split = |half: &str| tensor.name.strip_suffix(half)?.strip_suffix(".weight");
        let Some(name) = split(".lora_a").or_else(|| split(".lora_b")) else {
            strangers.push(format!(
                "{} is not lora_a or lora_b of a weight, and is not supported",
                shown(&tensor.name)
            ));
            continue;
        };
        let Some((linear, place)) = known.get(name) else {
            let (family, hint) = (&spec.model_type, names::hint(name, known.keys().map(String::as_str)));
            strangers.push(format!("{} adapts no linear module of this {family}{hint}", shown(&tensor.name)));
            continue;
        };
        let shape =
            |half: &str| file.find(&place.half(half)).map(|tensor| tensor.shape.clone()).unwrap_or_default();
        let (a, b) = (shape("lora_a"), shape("lora_b"));
        let rank = a.first().copied().unwrap_or(0);
        problems.require(rank > 0 && a == [rank, linear.inputs] && b == [linear.outputs, rank], || {
            let (inputs, outputs) = (linear.inputs, linear.outputs);
            format!(
                "{name} has lora_a {a:?} and lora_b {b:?}; this base needs [r, {inputs}] and [{outputs}, r]"
            )
        });
        pairs.insert(linear.module.clone(), Pair { linear, place: place.clone(), rank });
    }
    strangers.into_iter().for_each(|stranger| problems.add(stranger));
    problems.require(!pairs.is_empty() || !problems.is_empty(), || "there are no tensors".into());
    problems.finish().map_err(|e| Error::Adapter(e.to_string()))?;
    Ok(pairs)
}
