//! Merges adapters into a copy of their base: `W' = W + Σ weight·scale·B·A`, as a complete model directory.
//!
//! Sums are f32, rounded once to the storage type. Tensors are streamed: the layout of the files follows from the shapes,
//! then numbers go from the mapped base to the disk in blocks, so memory does not grow with the size of the model.

mod companions;
mod config_json;
mod encode;
pub mod gguf;
mod overlay;
mod plan;
mod request;
mod shards;
mod stream;
pub(crate) mod templates;
mod tensor;
pub mod weights;

use std::fs::File;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::{self, Draining};
use crate::report::Activity;
use crate::trainable::Adapters;
use crate::weights::DType;
use companions::Companions;
use overlay::Overlay;
use plan::Plan;
pub use request::{Base, MergeOptions};
use shards::{INDEX, Planned, Shard};
use stream::Stream;

/// The result for one adapted module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergedModule {
    /// Its path.
    pub module: String,
    /// Its storage type, by name.
    pub storage: String,
    /// ‖ΔW‖_F of what was added.
    pub delta_norm: f64,
    /// ‖W' stored − W' exact‖_F.
    pub rounding_norm: f64,
    /// max |W' stored − W' exact|.
    pub rounding_max: f64,
}

/// What was merged, and the error of the storage type.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergeReport {
    /// The adapted modules, by name.
    pub modules: Vec<MergedModule>,
    /// The weight files.
    pub files: Vec<String>,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Files of the base's directory that were left out though they may matter, with the reason.
    pub left_out: Vec<String>,
}

impl MergeReport {
    /// max |W' stored − W' exact| over all modules.
    pub fn rounding_max(&self) -> f64 {
        self.modules.iter().map(|module| module.rounding_max).fold(0.0, f64::max)
    }

    /// Norm of the rounding errors relative to the norm of what was added, over all modules; 0 if nothing was added.
    pub fn rounding_share(&self) -> f64 {
        let norm =
            |of: fn(&MergedModule) -> f64| self.modules.iter().map(|m| of(m).powi(2)).sum::<f64>().sqrt();
        let delta = norm(|module| module.delta_norm);
        if delta > 0.0 { norm(|module| module.rounding_norm) / delta } else { 0.0 }
    }
}

/// Writes `base` with each adapter times its weight into the directory `output`, which appears whole or not at all.
///
/// # Errors
/// If an adapter does not fit the base (all problems are named), `output` is not empty (or, with `overwrite`, is not a model
/// and nothing else),
/// a number overflows the storage type, or the disk is full.
pub fn merge(
    base: &Base,
    adapters: &[(&Adapters, f64)],
    output: &Path,
    options: &MergeOptions,
) -> Result<MergeReport> {
    merge_checked(base, adapters, output, options, |_, _| Ok(()))
}

/// As [`merge`]; `check` sees the complete model in a temporary place, and a model that it refuses never gets to `output`.
///
/// # Errors
/// As [`merge`], and the error of `check`.
pub fn merge_checked(
    base: &Base,
    adapters: &[(&Adapters, f64)],
    output: &Path,
    options: &MergeOptions,
    check: impl FnOnce(&Path, &MergeReport) -> Result<()>,
) -> Result<MergeReport> {
    check_output(base, output, options.overwrite)?;
    let overlay = Overlay::new(base, adapters)?;
    let (base, adapters) = &Overlay::resolved(overlay.as_ref(), base, adapters);
    let plan = Plan::new(base, adapters, options)?;
    let companions = Companions::of(base.directory)?;
    check_replaced(output, &companions)?;
    files::write_directory(output, options.overwrite, |directory| {
        write_config(base, directory, options.dtype, plan.untied.is_some())?;
        companions.copy(directory)?;
        options.chat_template.map_or(Ok(()), |text| templates::put(directory, text))?;
        let mut modules = Vec::new();
        let tensors = plan.shards.iter().map(|shard| shard.tensors.len() as u64).sum();
        let activity = Activity::new("writing tensors", tensors);
        for shard in &plan.shards {
            let place = directory.join(&shard.file);
            write_shard((base, &plan, shard), &place, &mut modules, &activity)?;
        }
        drop(activity);
        if plan.shards.len() > 1 {
            write_json(&directory.join(INDEX), &shards::index(&plan.shards))?;
        }
        modules.sort_by(|a, b| a.module.cmp(&b.module));
        let left_out = companions.left_out;
        let report = MergeReport { modules, files: plan.files(), bytes: plan.bytes(), left_out };
        check(directory, &report)?;
        Ok(report)
    })
}

/// Refuses a path at which no directory can be made: that of a file, or of a link that leads nowhere.
///
/// # Errors
/// If such a thing is there.
pub fn check_directory(path: &Path) -> Result<()> {
    let shown = path.display();
    if path.exists() && !path.is_dir() {
        return Err(Error::Config(format!(
            "the output {shown} is a file, and what is written is a directory; name another path"
        )));
    }
    match std::fs::read_link(path) {
        Ok(to) if !path.exists() => Err(Error::Config(format!(
            "the output {shown} is a link to {}, which is not there; make that directory, or name another path",
            to.display()
        ))),
        _ => Ok(()),
    }
}

/// An output that must not be written to is refused before the work.
fn check_output(base: &Base, output: &Path, overwrite: bool) -> Result<()> {
    check_directory(output)?;
    if !output.exists() {
        return Ok(());
    }
    let shown = output.display();
    let real = |path: &Path| std::fs::canonicalize(path).map_err(Error::read(path));
    let files = base.source.files().into_iter().map(|stamp| stamp.path);
    let taken = real(output)?;
    if files.chain([real(base.directory)?]).any(|part| part.starts_with(&taken)) {
        return Err(Error::Config(format!(
            "the output {shown} is the base or contains it; name another directory"
        )));
    }
    let is_empty = std::fs::read_dir(output).map_err(Error::read(output))?.next().is_none();
    if is_empty {
        return Ok(());
    }
    if !overwrite {
        return Err(Error::Config(format!(
            "the output {shown} is not empty; name another directory, or replace it with --force"
        )));
    }
    if !output.join("config.json").exists() {
        return Err(Error::Config(format!(
            "the output {shown} holds no config.json, so it is not a model to overwrite; name another directory"
        )));
    }
    Ok(())
}

/// Refuses to replace a directory that holds more than a model.
fn check_replaced(output: &Path, companions: &Companions) -> Result<()> {
    if !output.is_dir() {
        return Ok(());
    }
    let copied = companions.copied.iter().map(|companion| companion.name.as_path());
    let fixed = companions::KNOWN.iter().chain(&["config.json", INDEX]).map(|name| Path::new(*name));
    let known: Vec<&Path> = copied.chain(fixed).collect();
    let is_weights = |path: &Path| {
        path.to_str().is_some_and(|name| {
            name.starts_with("model") && name.ends_with(".safetensors") && !name.contains(['/', '\\'])
        })
    };
    files::check_parts(output, "the model that is written", &|path| {
        is_weights(path) || known.iter().any(|part| part.starts_with(path))
    })
}

fn write_shard(
    (base, plan, shard): (&Base, &Plan, &Shard),
    path: &Path,
    modules: &mut Vec<MergedModule>,
    activity: &Activity,
) -> Result<()> {
    let file = File::create_new(path).map_err(Error::write(path))?;
    let mut out = Draining::new(&file);
    let (made, written) = stream::through(&mut out, |stream| {
        shard.write_header(stream).map_err(Error::write(path))?;
        for planned in &shard.tensors {
            modules.extend(write_tensor(base, plan, planned, path, stream)?);
            activity.advance(1);
        }
        Ok::<(), Error>(())
    });
    written.and_then(|()| out.finish()).map_err(Error::write(path))?;
    made?;
    file.sync_all().map_err(Error::write(path))
}

/// Writes a tensor; returns its rounding error if it was adapted.
fn write_tensor<'a>(
    base: &Base<'a>,
    plan: &Plan,
    planned: &Planned,
    path: &Path,
    stream: &mut Stream<'a>,
) -> Result<Option<MergedModule>> {
    let source = plan.source_name(planned);
    let Some(dtype) = plan.rounds_to(base, planned)? else {
        stream.write_kept(base.source.stored(source)?.bytes).map_err(Error::write(path))?;
        return Ok(None);
    };
    let target = plan.targets.get(&planned.name);
    let added = target.map(|target| (&target.linear, target.addends.as_slice()));
    let weight = base.source.get(source)?;
    let stock = tensor::write(stream, &weight, added, &dtype.into()).map_err(Error::write(path))?;
    if stock.overflows {
        let name = dtype.name();
        return Err(Error::Adapter(format!(
            "{} holds numbers that {name} cannot represent; store the merged model as bf16 or f32",
            planned.name
        )));
    }
    Ok(target.map(|target| MergedModule {
        module: target.linear.module.clone(),
        storage: dtype.name().into(),
        delta_norm: stock.delta.sqrt(),
        rounding_norm: stock.rounding.sqrt(),
        rounding_max: stock.largest,
    }))
}

/// The updated configuration of the base. `untied`: the head was adapted and no longer shares the embedding's weight.
fn write_config(base: &Base, directory: &Path, dtype: Option<DType>, untied: bool) -> Result<()> {
    let path = base.directory.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(Error::read(&path))?;
    let mut config: Map<String, Value> = serde_json::from_str(&text)
        .map_err(|e| Error::Model(format!("{} is not a JSON object: {e}", path.display())))?;
    config_json::update(&mut config, dtype);
    // A stored head takes precedence over the configuration: transformers 5 reads it, and 4 would not.
    let own_head = untied || base.spec.head.is_some();
    if own_head && config.get("tie_word_embeddings").is_none_or(|ties| *ties != Value::Bool(false)) {
        config.insert("tie_word_embeddings".into(), false.into());
    }
    // transformers 5 reads the setting of the wrapper, 4 that of the text part.
    if let Some(Value::Object(text)) = config.get_mut("text_config") {
        text.insert("tie_word_embeddings".into(), (!own_head).into());
    }
    write_json(&directory.join("config.json"), &config.into())
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    files::write_bytes(path, format!("{value:#}\n").as_bytes())
}

#[cfg(test)]
mod tests;
