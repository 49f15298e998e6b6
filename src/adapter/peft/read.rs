//! Reads PEFT adapters.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use safetensors::SafeTensors;

use super::super::{head, layout, names};
use super::config::{LORA, PREFIX as PREFIX_TUNING};
use super::pairs::{self, Modules, Pair, Sorted};
use super::select::Selection;
use super::whole::Part;
use super::{Accepted, PREFIX, PeftConfig, WEIGHTS, layers, place, prefix, whole};
use crate::error::{Error, Problems, Result};
use crate::model::spec::{DecoderSpec, LinearSpec};
use crate::trainable::whole::Whole;
use crate::trainable::{self, Adapter as Kind, Adapters, Dora, Lora, SCORE, lora};
use crate::weights::{SafetensorsSource, WeightSource};

/// An adapter that was read.
#[derive(Debug)]
pub struct Adapter {
    /// Its modules, fitted to the decoder.
    pub adapters: Adapters,
    /// Its settings.
    pub config: PeftConfig,
    /// The metadata of its weights file.
    pub metadata: BTreeMap<String, String>,
    /// Notes for the user about how it was read.
    pub notes: Vec<String>,
}

/// How to read an adapter.
#[derive(Clone, Copy, Default)]
pub struct Reading<'a> {
    /// Whether the language-model head may be adapted too; the decoder does not compute with such an adapter.
    pub head: bool,
    /// Whether the adapter may be a reward model, with a scalar head.
    pub score: bool,
    /// Whether problems become notes that are otherwise refused, because PEFT ignores them or because the base is another one.
    pub force: bool,
    /// The base's weights, to compare with the whole weights that PEFT saves beside an adapter of the head.
    pub base: Option<&'a dyn WeightSource>,
}

/// Reads the adapter in `directory` for a decoder.
///
/// # Errors
/// If a file is missing or damaged, a tensor belongs to no linear module of the decoder, a pair lacks a half, a shape does
/// not fit, or settings and tensors contradict each other; all mismatches are named at once.
pub fn read(directory: &Path, spec: &DecoderSpec) -> Result<Adapter> {
    read_for(directory, spec, Reading::default())
}

/// As [`read`], with options.
///
/// # Errors
/// As [`read`].
pub fn read_for(directory: &Path, spec: &DecoderSpec, reading: Reading) -> Result<Adapter> {
    let accepted = Accepted { forced: reading.force, score: reading.score };
    let config = PeftConfig::open_for(directory, accepted)?;
    if config.peft_type != LORA {
        return read_beside(directory, spec, config);
    }
    let of_head = head::linear(spec);
    let linears = spec.linears().chain(reading.head.then_some(&of_head));
    let modules = Modules {
        linears: linears.map(|linear| (linear.module.clone(), linear.clone())).collect(),
        family: &spec.model_type,
        head: of_head.module.clone(),
        score: config.is_reward,
        spec: Some(spec),
    };
    read_matrices(directory, &modules, config, reading)
}

/// Reads the adapter in `directory` without a base: the sizes of modules come from their matrices, their names from a
/// text model.
///
/// # Errors
/// As [`read`], except for checks that need a base.
pub fn read_alone(directory: &Path) -> Result<Adapter> {
    let config = PeftConfig::open_for(directory, Accepted { score: true, ..Accepted::default() })?;
    if config.peft_type != LORA {
        return Err(Error::Adapter(format!(
            "{} is of the kind {}, which is read only with its base; name that with --base",
            directory.display(),
            config.peft_type
        )));
    }
    let path = place::weights(directory)?;
    let source = SafetensorsSource::open_files(directory, std::slice::from_ref(&path))?;
    let mut linears = BTreeMap::new();
    for name in source.names() {
        let Some((module, index)) = pairs::half(&name) else { continue };
        let module = layout::text_path(&module);
        let linear = linears.entry(module.clone()).or_insert_with(|| LinearSpec::new(module, 0, 0));
        let shape = source.shape(&name).unwrap_or_default();
        match index {
            0 => linear.inputs = shape.get(1).copied().unwrap_or(0),
            1 => linear.outputs = shape.first().copied().unwrap_or(0),
            _ => {}
        }
    }
    let score = config.is_reward;
    let modules = Modules { linears, family: "adapter", head: String::new(), score, spec: None };
    read_matrices(directory, &modules, config, Reading::default())
}

/// Reads an adapter that is not made of low-rank matrices.
fn read_beside(directory: &Path, spec: &DecoderSpec, config: PeftConfig) -> Result<Adapter> {
    let path = place::weights(directory)?;
    let source = SafetensorsSource::open_files(directory, std::slice::from_ref(&path))?;
    let within = |e: Error| Error::Adapter(format!("{}: {e}", path.display()));
    let adapters = match config.peft_type.as_str() {
        PREFIX_TUNING => prefix::read(&source, spec, &config),
        _ => layers::read(&source, spec, &config),
    };
    let adapters = adapters.map_err(within)?;
    check_finite(&adapters).map_err(within)?;
    let notes = config.notes.clone();
    Ok(Adapter { adapters, config, metadata: metadata(&path)?, notes })
}

fn check_finite(adapters: &Adapters) -> Result<()> {
    match adapters.not_finite() {
        None => Ok(()),
        Some((module, number)) => {
            Err(Error::Adapter(format!("{module} holds {number}; the adapter is damaged")))
        }
    }
}

fn read_matrices(
    directory: &Path,
    modules: &Modules,
    config: PeftConfig,
    reading: Reading,
) -> Result<Adapter> {
    let path = place::weights(directory)?;
    let source = SafetensorsSource::open_files(directory, std::slice::from_ref(&path))?;
    let within = |e: Error| Error::Adapter(format!("{}: {e}", path.display()));
    let Sorted { pairs, mut whole, score } = pairs::sort(&source, modules).map_err(within)?;
    let mut told = Told { force: reading.force, notes: config.notes.clone(), problems: Problems::default() };
    let tables =
        modules.spec.map_or(("model.embed_tokens", "lm_head"), |spec| (&*spec.embedding, &*modules.head));
    let trained = whole::trained(&mut whole, &source, &config, tables, modules.spec, &mut told.problems);
    for (name, which, part) in &whole {
        match (part, modules.spec) {
            (Part::Bias | Part::Rows, _) => told.problems.add(format!(
                "{name} is not lora_A or lora_B of a linear module, and adapter_config.json does not say that it was trained"
            )),
            (Part::Weight | Part::Frozen, Some(spec)) => {
                let misfit = whole::misfit(name, *which, &source, spec, reading.base).map_err(within)?;
                misfit.into_iter().for_each(|misfit| told.refuse(misfit));
            }
            (Part::Weight | Part::Frozen, None) => told.notes.push(format!("{name} is not compared with a base; name one to compare it")),
        }
    }
    let loras = loras(&pairs, &config, modules, &mut told).map_err(within)?;
    check_magnitudes(&pairs, &config, &mut told);
    told.problems.finish().map_err(|e| within(Error::Adapter(e.to_string())))?;
    let kind = |lora| if config.use_dora { Kind::from(Dora::new(lora)) } else { Kind::from(lora) };
    let head = score.as_deref().map(|name| score_head(&source, name, modules)).transpose().map_err(within)?;
    let head = head.map(|head| (Kind::from(head), score.into_iter().collect()));
    let trained: Vec<(Kind, Vec<String>)> = trained.into_iter().chain(head).collect();
    let kinds = loras.into_iter().map(kind).chain(trained.iter().map(|(kind, _)| kind.clone()));
    let mut adapters = Adapters::zeros(kinds)?;
    let mut values = adapters.values().to_vec();
    for (module, suffix, entry) in adapters.tensors() {
        let own = trained.iter().find(|(kind, _)| kind.module() == module);
        let name = match (own, pairs.get(module)) {
            (Some((_, names)), _) => {
                if suffix == trainable::whole::BIAS {
                    names.last()
                } else {
                    names.first()
                }
            }
            (None, Some(Pair { a, b, magnitude, .. })) => match suffix {
                lora::A => Some(a),
                lora::B => Some(b),
                _ => magnitude.as_ref(),
            },
            (None, None) => None,
        };
        let name = name.unwrap_or(&entry.name);
        source.get(name)?.elements().widen_into(&mut values[entry.range.clone()]);
    }
    adapters.update(|all| all.copy_from_slice(&values));
    check_finite(&adapters).map_err(within)?;
    Ok(Adapter { adapters, config, metadata: metadata(&path)?, notes: told.notes })
}

/// The scalar head of a reward model, whose weight is `[1, hidden]`.
fn score_head(source: &SafetensorsSource, name: &str, modules: &Modules) -> Result<Whole> {
    let shape = source.shape(name).unwrap_or_default();
    let hidden = modules.spec.map(|spec| spec.hidden);
    match shape[..] {
        [1, columns] if hidden.is_none_or(|hidden| hidden == columns) && columns > 0 => {
            Ok(Whole::new(SCORE.into(), (1, columns), false))
        }
        _ => Err(Error::Adapter(format!(
            "{name} is {shape:?}; the head of a reward model for this base is [1, {}]: one label, and the features of its \
             hidden states",
            hidden.map_or("hidden".into(), |hidden| hidden.to_string())
        ))),
    }
}

/// Every module of a DoRA has a magnitude, and none of a LoRA.
fn check_magnitudes(pairs: &BTreeMap<String, Pair>, config: &PeftConfig, told: &mut Told) {
    for (module, pair) in pairs {
        told.problems.require(pair.magnitude.is_some() == config.use_dora, || {
            if config.use_dora {
                format!("{module} has no lora_magnitude_vector, but adapter_config.json says use_dora: true")
            } else {
                format!(
                    "{module} has a lora_magnitude_vector, which belongs to DoRA, but adapter_config.json does not say \
                     use_dora: true; add that"
                )
            }
        });
    }
}

/// Problems that are refused, or become notes if forced.
struct Told {
    force: bool,
    notes: Vec<String>,
    problems: Problems,
}

impl Told {
    fn refuse(&mut self, what: String) {
        if self.force {
            self.notes.push(what);
        } else {
            self.problems.add(format!("{what} (insist with --force where there is such a flag)"));
        }
    }
}

/// The file's modules with the ranks and scales that the configuration gives them.
fn loras(
    pairs: &BTreeMap<String, Pair>,
    config: &PeftConfig,
    modules: &Modules,
    told: &mut Told,
) -> Result<Vec<Lora>> {
    let rules = config.rules();
    let selection = Selection::new(config, &rules)?;
    let (mut loras, mut unselected) = (Vec::new(), Vec::new());
    for (module, pair) in pairs {
        let (said, alpha, scale) = selection.scale(&pair.names)?;
        told.problems.require(said == pair.rank, || {
            format!(
                "{module} has rank {}, but adapter_config.json (r, rank_pattern) gives it r = {said}",
                pair.rank
            )
        });
        if !selection.selects(&pair.names, *module == modules.head)? {
            unselected.push(pair.names[0].as_str());
        }
        loras.push(Lora::new(pair.linear, pair.rank, alpha, scale));
    }
    tell_keys(&selection, told);
    if config.target_modules.is_none() {
        let leaves: BTreeSet<&str> = pairs.keys().map(|m| m.rsplit('.').next().unwrap_or(m)).collect();
        told.refuse(format!(
            "target_modules is missing in adapter_config.json, and PEFT would adapt modules of its own choice; the file adapts \
             {}",
            named(&leaves.into_iter().collect::<Vec<_>>())
        ));
        return Ok(loras);
    }
    if !unselected.is_empty() {
        told.refuse(format!(
            "target_modules, exclude_modules and layers_to_transform in adapter_config.json leave out {} of {WEIGHTS}, whose \
             matrices PEFT would ignore; add these modules to target_modules",
            named(&unselected)
        ));
    }
    tell_bare(pairs, config, modules, &selection, told)?;
    Ok(loras)
}

/// Reports keys of the patterns that match nothing, or match differently than in PEFT.
fn tell_keys(selection: &Selection, told: &mut Told) {
    for key in selection.prefixed() {
        told.refuse(format!(
            "{} in adapter_config.json begins with {PREFIX}, but PEFT matches names without it and ignores the key; remove \
             the prefix to apply the key, or remove the key",
            names::shown(&key)
        ));
    }
    let renamed = selection.renamed();
    let renamed: Vec<&str> = renamed.iter().map(String::as_str).collect();
    if !renamed.is_empty() {
        told.notes.push(format!(
            "{} in adapter_config.json names modules as a model of another layout does; it is applied to them here, but \
             PEFT would not match them",
            named(&renamed)
        ));
    }
    let unused = selection.unused();
    let unused: Vec<&str> = unused.iter().map(String::as_str).collect();
    if !unused.is_empty() {
        told.notes.push(format!("{} in adapter_config.json apply to no module of the file", named(&unused)));
    }
}

/// Reports modules of the base that the configuration adapts and the file does not. PEFT leaves the product 0, as here,
/// or fills it with random numbers if the initialisation says so.
fn tell_bare(
    pairs: &BTreeMap<String, Pair>,
    config: &PeftConfig,
    modules: &Modules,
    selection: &Selection,
    told: &mut Told,
) -> Result<()> {
    if modules.spec.is_none() {
        return Ok(());
    }
    let mut bare = Vec::new();
    for module in modules.linears.keys().filter(|module| !pairs.contains_key(*module)) {
        // With the file's own name.
        let aliases = layout::aliases(module);
        let own =
            aliases.iter().find(|name| layout::is_like(name, pairs.values().map(|pair| &*pair.names[0])));
        let own = own.unwrap_or(module).clone();
        if selection.selects(&[own], *module == modules.head)? {
            bare.push(module.as_str());
        }
    }
    if bare.is_empty() {
        return Ok(());
    }
    let said = format!(
        "target_modules in adapter_config.json names {}, which the file does not adapt",
        named(&bare)
    );
    if config.random_init {
        told.refuse(format!("{said}; by its init_lora_weights PEFT would fill them with random numbers"));
    } else {
        told.notes.push(said);
    }
    Ok(())
}

/// The first of many names.
fn named(all: &[&str]) -> String {
    const FIRST: usize = 4;
    let shown: Vec<String> = all.iter().take(FIRST).map(|name| names::shown(name)).collect();
    match all.len().saturating_sub(FIRST) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
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
