//! Merges adapters into one GGUF file, a complete model for llama.cpp: names, order of rows and metadata as its own converter
//! writes them (`conversion/llama.py`, `qwen.py`, `gemma.py`).

mod json;
mod keys;
mod metadata;
mod mix;
mod rotary;
mod tensors;
mod tokenizer;
mod vocabulary;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use super::super::gguf::{Architecture, find_architecture};
use super::super::gguf_writer::{self, Planned};
use super::encode::{Encoding, Stock};
use super::overlay::Overlay;
use super::plan::Target;
use super::stream::{self, Stream};
use super::tensor::{self, Layout};
use super::{Base, MergeReport, MergedModule};
use crate::error::{Error, Result};
use crate::files;
use crate::model::spec::DecoderSpec;
use crate::report::Activity;
use crate::trainable::Adapters;
use crate::weights::DType;
use json::read_json;
pub use mix::FileType;
use rotary::Rope;
use tensors::Made;

/// Families that can be written as a complete model.
const FAMILIES: &[&str] = &["llama", "qwen2", "qwen3", "gemma3_text"];

/// How a merged GGUF model is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GgufOptions<'a> {
    /// Type of the matrices; `None`: the type of the base's embedding. Norms and biases are F32.
    pub kind: Option<FileType>,
    /// Whether to replace an existing file.
    pub overwrite: bool,
    /// The chat template that takes the place of the base's; `None`: the base's own.
    pub chat_template: Option<&'a str>,
}

/// Writes `base` with each adapter times its weight into the file `output`, which appears whole or not at all.
///
/// # Errors
/// If an adapter does not fit the base (all problems are named), llama.cpp would compute something else than the base, its
/// tokenizer cannot be represented (the remedy is llama.cpp's own converter), a number overflows the storage type, `output`
/// exists, or the disk is full.
pub fn merge(
    base: &Base,
    adapters: &[(&Adapters, f64)],
    output: &Path,
    options: &GgufOptions,
) -> Result<MergeReport> {
    merge_checked(base, adapters, output, options, |_, _| Ok(()))
}

/// As [`merge`]; `check` sees the complete file under a temporary name, and a file that it refuses never gets to `output`.
///
/// # Errors
/// As [`merge`], and the error of `check`.
pub fn merge_checked(
    base: &Base,
    adapters: &[(&Adapters, f64)],
    output: &Path,
    options: &GgufOptions,
    check: impl FnOnce(&Path, &MergeReport) -> Result<()>,
) -> Result<MergeReport> {
    if output.exists() && (!options.overwrite || output.is_dir()) {
        return Err(Error::Config(format!(
            "the output {} already exists; name another file, or replace it with --force",
            output.display()
        )));
    }
    let overlay = Overlay::new(base, adapters)?;
    let (base, adapters) = &Overlay::resolved(overlay.as_ref(), base, adapters);
    let architecture = known(base.spec)?;
    let config = read_json(&base.directory.join("config.json"))?;
    let targets = super::plan::targets(base, adapters)?;
    let kind = options.kind.map_or_else(|| kind_of(base), Ok)?;
    let rope = Rope::read(&config, base.spec)?;
    let made = tensors::plan(base, architecture, &rope, &targets, kind)?;
    let metadata = metadata::of(base, architecture, (&config, options.chat_template), kind, &rope)?;
    let planned: Vec<Planned> = made.iter().map(|tensor| tensor.planned.clone()).collect();
    let bytes = planned.iter().map(|tensor| tensor.bytes() as u64).sum();
    let files = vec![output.display().to_string()];
    let mut report = MergeReport { modules: Vec::new(), files, bytes, left_out: Vec::new() };
    let modules = RefCell::new(Vec::new());
    let mut failed = None;
    let activity = Activity::new("writing tensors", planned.len() as u64);
    let fill = |out: &mut (dyn std::io::Write + Send)| {
        let (filled, written) = stream::through(out, |stream| {
            gguf_writer::write(stream, &metadata, &planned, |index, stream| {
                let merged = write_one(base, &made[index], &targets, stream).map_err(|error| {
                    let why = std::io::Error::other(error.to_string());
                    failed = Some(error);
                    why
                })?;
                modules.borrow_mut().extend(merged);
                activity.advance(1);
                Ok(())
            })
        });
        // The result of writing first: once writing has failed, nothing more can be done.
        if written.is_err() {
            failed = None;
        }
        written.and(filled)
    };
    let written = files::write_checked(output, fill, |file| {
        report.modules = modules.take();
        report.modules.sort_by(|a: &MergedModule, b| a.module.cmp(&b.module));
        check(file, &report)
    });
    failed.map_or(Ok(()), Err)?;
    written?;
    Ok(report)
}

/// Writes a tensor; returns its rounding error if it was adapted.
fn write_one(
    base: &Base,
    made: &Made,
    targets: &BTreeMap<String, Target>,
    out: &mut Stream,
) -> Result<Option<MergedModule>> {
    let io = Error::write(&made.planned.name);
    let Some(source) = &made.source else {
        std::io::Write::write_all(out, bytemuck::cast_slice(&made.numbers)).map_err(io)?;
        return Ok(None);
    };
    let weight = base.source.get(source)?;
    let target = made.target.as_ref().and_then(|name| targets.get(name));
    let added = target.map(|target| (&target.linear, target.addends.as_slice()));
    let encoding = made.planned.kind.layout().map_or_else(Encoding::Blocks, Encoding::Float);
    let layout = Layout { encoding, head: made.head, columns: made.columns, plus: made.plus };
    let Stock { delta, rounding, largest, overflows } =
        tensor::write(out, &weight, added, &layout).map_err(io)?;
    if overflows {
        return Err(Error::Adapter(format!(
            "{source} holds numbers that {} cannot represent; store the merged model as bf16 or f32",
            made.planned.kind
        )));
    }
    Ok(target.map(|target| MergedModule {
        module: target.linear.module.clone(),
        storage: made.planned.kind.to_string(),
        delta_norm: delta.sqrt(),
        rounding_norm: rounding.sqrt(),
        rounding_max: largest,
    }))
}

fn known(spec: &DecoderSpec) -> Result<&'static Architecture> {
    if FAMILIES.contains(&spec.model_type.as_str()) {
        return find_architecture(spec);
    }
    Err(Error::Adapter(format!(
        "a merged GGUF model of {} is not supported (supported: {}); merge into safetensors and convert that with llama.cpp's \
         convert_hf_to_gguf.py",
        spec.model_type,
        FAMILIES.join(", ")
    )))
}

/// The storage type of the base's embedding.
fn kind_of(base: &Base) -> Result<FileType> {
    let name = super::super::names::weight_of(&base.spec.embedding, base.source, base.spec);
    Ok(match base.source.get(&name)?.dtype() {
        Some(DType::F32) => FileType::F32,
        Some(DType::Bf16) => FileType::BF16,
        Some(DType::F16) => FileType::F16,
        None => FileType::Q8_0,
    })
}

#[cfg(test)]
mod tests;
