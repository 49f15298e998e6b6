//! GGUF adapters, for llama.cpp's `--lora` and programs based on it.
//!
//! llama.cpp multiplies B·A by `adapter.lora.alpha / r` and has no other scale: the rest of a module's scale (rsLoRA, alpha
//! patterns) is folded into its B. Matrices are as in PEFT, except for the rows of B of queries and keys where llama.cpp
//! rotates neighbouring features of a head and transformers its halves.

mod read;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

pub use super::gguf_writer::GgufType;
use super::gguf_writer::{self, Planned, Q8_BLOCK, Value};
use super::peft::Origin;
use crate::error::{Error, Problems, Result};
use crate::files;
use crate::model::spec::{DecoderSpec, LinearSpec, MlpSpec, QkvSpec};
use crate::trainable::{Adapters, Lora};
pub use read::{metadata, read};

/// llama.cpp's name of a family.
pub(super) struct Architecture {
    /// transformers' `model_type`.
    pub model_type: &'static str,
    /// `general.architecture`.
    pub name: &'static str,
    /// Whether the rows of queries and keys are reordered (`undo_permute` in llama.cpp's `conversion/llama.py`).
    pub permutes: bool,
}

const fn architecture(model_type: &'static str, name: &'static str, permutes: bool) -> Architecture {
    Architecture { model_type, name, permutes }
}

const ARCHITECTURES: &[Architecture] = &[
    architecture("gemma", "gemma", false),
    architecture("gemma2", "gemma2", false),
    architecture("gemma3_text", "gemma3", false),
    // The text part of a model with a vision tower.
    architecture("gemma3", "gemma3", false),
    architecture("gpt2", "gpt2", false),
    architecture("granite", "granite", true),
    architecture("llama", "llama", true),
    architecture("mistral", "llama", true),
    architecture("olmo2", "olmo2", false),
    architecture("phi3", "phi3", false),
    architecture("qwen2", "qwen2", false),
    architecture("qwen3", "qwen3", false),
    architecture("smollm3", "smollm3", true),
    architecture("stablelm", "stablelm", false),
];

/// Metadata key of the base's name.
const BASE_KEY: &str = "dpo_lora.base";

/// The written file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GgufReport {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// `adapter.lora.alpha`.
    pub alpha: f32,
    /// Adapted modules.
    pub modules: usize,
    /// Bytes of the matrices.
    pub bytes: u64,
    /// Modules whose B is stored as F16, since Q8_0 needs ranks divisible by 32.
    pub unquantised: Vec<String>,
}

/// Writes `adapters` as a GGUF adapter for a base of this architecture.
///
/// # Errors
/// If llama.cpp does not support the family or a module, a number does not fit `kind`, or the file cannot be written.
pub fn write(
    path: &Path,
    adapters: &Adapters,
    spec: &DecoderSpec,
    kind: GgufType,
    origin: &Origin,
) -> Result<GgufReport> {
    let architecture = find_architecture(spec)?;
    let loras = &adapters.loras("a GGUF adapter")?;
    let values = adapters.values();
    let places = fit(loras, spec, architecture)?;
    let alpha = file_alpha(values, loras, kind);
    let mut matrices = Vec::with_capacity(2 * places.len());
    for (lora, place) in loras.iter().zip(&places) {
        let a = matrix(place, "lora_a", lora.rank, lora.inputs, kind);
        let b = matrix(place, "lora_b", lora.outputs, lora.rank, kind);
        check_range(lora, &values[lora.a()], 1.0, a.kind)?;
        check_range(lora, &values[lora.b()], factor(lora, alpha), b.kind)?;
        matrices.extend([a, b]);
    }
    let text = |key: &str, text: &str| (key.to_string(), Value::Text(text.into()));
    let mut metadata = vec![
        text("general.architecture", architecture.name),
        text("general.type", "adapter"),
        text("adapter.type", "lora"),
        ("adapter.lora.alpha".into(), Value::F32(alpha)),
    ];
    // llama.cpp ignores keys that it does not know.
    metadata.extend(origin.entries().iter().map(|(key, value)| text(key, value)));
    let filled = |name: &&str| !name.is_empty();
    metadata.extend(Some(origin.base.as_str()).filter(filled).map(|base| text(BASE_KEY, base)));
    let numbers = |index: usize| {
        let lora = loras[index / 2];
        match index % 2 {
            0 => values[lora.a()].to_vec(),
            _ => rows_of_b(&values[lora.b()], lora, places[index / 2].heads, factor(lora, alpha)),
        }
    };
    files::write_atomically(path, |out| {
        gguf_writer::write(out, &metadata, &matrices, |index, out| {
            let bytes = matrices[index].kind.encode(&numbers(index)).map_err(std::io::Error::other)?;
            out.write_all(&bytes)
        })
    })?;
    let fell_back = |index: &usize| matrices[2 * index + 1].kind != kind;
    let unquantised = (0..places.len()).filter(fell_back).map(|i| loras[i].module.clone()).collect();
    let bytes = matrices.iter().map(|m| m.bytes() as u64).sum();
    Ok(GgufReport { architecture: architecture.name, alpha, modules: places.len(), bytes, unquantised })
}

pub(super) fn find_architecture(spec: &DecoderSpec) -> Result<&'static Architecture> {
    ARCHITECTURES.iter().find(|known| known.model_type == spec.model_type).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.model_type).collect();
        Error::Adapter(format!(
            "a GGUF adapter for {} is not supported (supported: {}); merge the adapter and convert the whole model with \
             llama.cpp's convert_hf_to_gguf.py",
            spec.model_type,
            known.join(", ")
        ))
    })
}

/// The place of a module's matrices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// llama.cpp's name of the weight, without `.weight`.
    pub tensor: String,
    /// Heads whose rows of B are reordered.
    pub heads: Option<usize>,
}

/// Returns the place of each module; the error names all modules that have none.
fn fit(loras: &[&Lora], spec: &DecoderSpec, architecture: &Architecture) -> Result<Vec<Place>> {
    let mut known = places(spec, architecture);
    let mut problems = Problems::default();
    let mut found = Vec::new();
    for lora in loras {
        match known.remove(lora.module.as_str()) {
            Some((linear, place)) if (linear.inputs, linear.outputs) == (lora.inputs, lora.outputs) => {
                found.push(place)
            }
            Some((linear, _)) => problems.add(format!(
                "{} is adapted as [{}, {}], but this base has [{}, {}]",
                lora.module, lora.outputs, lora.inputs, linear.outputs, linear.inputs
            )),
            None => problems.add(format!("{} is not a linear module that llama.cpp adapts", lora.module)),
        }
    }
    problems.require(!loras.is_empty(), || "there is nothing to export: no module is adapted".into());
    problems.finish().map_err(|e| Error::Adapter(e.to_string()))?;
    Ok(found)
}

/// llama.cpp's names (`gguf/tensor_mapping.py`) by a module's function in its block.
pub(super) fn places<'a>(
    spec: &'a DecoderSpec,
    architecture: &Architecture,
) -> BTreeMap<&'a str, (&'a LinearSpec, Place)> {
    let mut places = BTreeMap::new();
    for (i, layer) in spec.layers.iter().enumerate() {
        let mut put = |linear: &'a LinearSpec, name: &str, heads: Option<usize>| {
            let heads = heads.filter(|_| architecture.permutes);
            places
                .insert(linear.module.as_str(), (linear, Place { tensor: format!("blk.{i}.{name}"), heads }));
        };
        let heads = layer.attention.heads;
        match &layer.attention.qkv {
            QkvSpec::Separate([q, k, v]) => {
                put(q, "attn_q", Some(heads.n_head));
                put(k, "attn_k", Some(heads.n_kv_head));
                put(v, "attn_v", None);
            }
            QkvSpec::Stacked(qkv) => put(qkv, "attn_qkv", None),
            // llama.cpp stores these stacked; no architecture above needs that.
            QkvSpec::PerHead(_) => {}
        }
        put(&layer.attention.output, "attn_output", None);
        match &layer.mlp {
            MlpSpec::Gated { gate, up, down, .. } => {
                put(gate, "ffn_gate", None);
                put(up, "ffn_up", None);
                put(down, "ffn_down", None);
            }
            MlpSpec::FusedGated { gate_up: up, down, .. } | MlpSpec::Plain { up, down, .. } => {
                put(up, "ffn_up", None);
                put(down, "ffn_down", None);
            }
        }
    }
    places.extend(
        spec.head
            .as_ref()
            .map(|head| (head.module.as_str(), (head, Place { tensor: "output".into(), heads: None }))),
    );
    places
}

fn matrix(place: &Place, half: &str, rows: usize, columns: usize, kind: GgufType) -> Planned {
    let whole_blocks = columns.is_multiple_of(Q8_BLOCK);
    let kind = if kind == GgufType::Q8_0 && !whole_blocks { GgufType::F16 } else { kind };
    Planned { name: format!("{}.weight.{half}", place.tensor), shape: vec![rows, columns], kind }
}

/// `adapter.lora.alpha`, the one of the file.
fn file_alpha(values: &[f32], loras: &[&Lora], kind: GgufType) -> f32 {
    // llama.cpp takes an alpha of 0 for "no alpha", which is a scale of 1.
    let alphas = loras.iter().map(|lora| effective_alpha(lora) as f32);
    let alpha = alphas.into_iter().find(|alpha| alpha.is_normal()).unwrap_or(1.0);
    if matches!(kind, GgufType::F32 | GgufType::BF16) {
        return alpha;
    }
    // Trained Bs are small, and F16 has few bits below 6e-5: their largest number is brought to between 1/2 and 1, by a
    // power of two that is taken off alpha again.
    let largest = |lora: &&Lora| {
        let largest = values[lora.b()].iter().fold(0f32, |m, x| m.max(x.abs()));
        f64::from(largest) * factor(lora, alpha).abs()
    };
    let largest = loras.iter().map(largest).fold(0.0, f64::max);
    let lowered = alpha * largest.log2().ceil().clamp(-60.0, 60.0).exp2() as f32;
    if largest > 0.0 && lowered.is_normal() { lowered } else { alpha }
}

/// What a module's B is multiplied by in a file of this alpha.
fn factor(lora: &Lora, alpha: f32) -> f64 {
    effective_alpha(lora) / f64::from(alpha)
}

/// The alpha with which `alpha / r` is the module's scale; without rounding where that is `lora_alpha` itself.
fn effective_alpha(lora: &Lora) -> f64 {
    let rank = lora.rank as f64;
    if lora.scale == lora.alpha / rank { lora.alpha } else { lora.scale * rank }
}

fn check_range(lora: &Lora, numbers: &[f32], factor: f64, kind: GgufType) -> Result<()> {
    let limit = f64::from(kind.limit());
    match numbers
        .iter()
        .find(|x| !(f64::from(**x) * factor).is_finite() || (f64::from(**x) * factor).abs() > limit)
    {
        Some(x) => Err(Error::Adapter(format!(
            "{} holds {}, which {kind} cannot represent; export as f32",
            lora.module,
            f64::from(*x) * factor
        ))),
        None => Ok(()),
    }
}

/// The row of transformers' matrix that is row `row` in llama.cpp.
fn source_row(row: usize, rows: usize, heads: Option<usize>) -> usize {
    let Some(heads) = heads else { return row };
    let width = rows / heads.max(1);
    let (head, at) = (row / width, row % width);
    head * width + at % 2 * (width / 2) + at / 2
}

/// `B [out, r]` times `factor`. With `heads`, a head's rows go from `[2, d/2]` to `[d/2, 2]`: halves to neighbours.
fn rows_of_b(b: &[f32], lora: &Lora, heads: Option<usize>, factor: f64) -> Vec<f32> {
    let source = |row: usize| source_row(row, lora.outputs, heads);
    let rows = (0..lora.outputs).flat_map(|row| &b[source(row) * lora.rank..(source(row) + 1) * lora.rank]);
    rows.map(|x| (f64::from(*x) * factor) as f32).collect()
}

#[cfg(test)]
mod tests;
