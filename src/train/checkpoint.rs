//! Checkpoints: everything a run needs to continue as if it had never stopped. A checkpoint is either valid or absent.
//!
//! `checkpoints/step-N/` holds the adapter (a PEFT directory, so that other tools can load it too), the optimizer's
//! moments, the state, and a manifest with the BLAKE3 hash of each file. It is written under a temporary name, synced
//! and renamed.

mod room;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

pub use self::room::room;
use super::best::Best;
use super::optimizer::Optimizer;
use super::rollouts::Held;
use super::watch::Watch;
use super::window::Window;
use crate::adapter::peft;
use crate::data::sampler::SamplerState;
use crate::error::{Error, Result};
use crate::files;
use crate::model::spec::DecoderSpec;
use crate::objective::on_policy::AdaptiveKl;
use crate::trainable::store::{Entry, Moment, Numbers};
use crate::trainable::{Adapters, Policy, Store, projected};

const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
/// The trained adapter, a PEFT directory.
pub const ADAPTER: &str = "adapter";
/// The trained adapter with PPO's value head, a PEFT directory; only if there is one.
pub const VALUE: &str = "value";
/// The numbers of a trained adapter that cannot be had from [`ADAPTER`], by name; only of a projected prefix.
pub const TRAINED: &str = "trained.safetensors";
/// The reference's own adapter, a PEFT directory; only if the reference moves.
pub const REFERENCE: &str = "reference";

/// The state of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Optimizer steps completed.
    pub step: u64,
    /// Steps counted by the optimizer (without skipped steps).
    pub optimizer_steps: u64,
    /// The position in the data.
    pub sampler: SamplerState,
    /// Metrics accumulated since the last log line.
    pub window: Window,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// The share of held-out pairs that the policy ranked correctly by log-prob before the first step.
    pub initial_accuracy: Option<f64>,
    /// The figures of the evaluation before the first step, by name; empty if there was none.
    #[serde(default)]
    pub initial: BTreeMap<String, f64>,
    /// Evaluations since the best one.
    pub evaluations_since_best: usize,
    /// Consecutive steps skipped.
    pub skipped_in_a_row: u32,
    /// State of the watchdogs.
    pub watch: Watch,
    /// Completions that are to be learned from again.
    #[serde(default)]
    pub held: Option<Held>,
    /// PPO's coefficient of the divergence.
    #[serde(default)]
    pub kl_coef: Option<AdaptiveKl>,
    /// The resolved configuration, as YAML.
    pub config: String,
    /// Fingerprint of the data: BLAKE3 over the ids of the examples.
    pub data: String,
    /// The same of the held-out data; empty in checkpoints of versions that did not note it.
    #[serde(default)]
    pub held_out: String,
    /// Fingerprint of the reference policy.
    pub reference: String,
    /// The number of ranks that the run was started on; 0 in checkpoints of versions without ranks.
    #[serde(default)]
    pub ranks: usize,
}

/// Writes `checkpoints/step-N` in a run directory and removes the oldest checkpoints beyond `limit`, but never the
/// best. `write_adapters` writes [`ADAPTER`], and [`REFERENCE`] if there is one. Failure to remove one is not an error; it is reported in the return value.
///
/// # Errors
/// If the checkpoint cannot be written; earlier checkpoints are then untouched.
pub fn save(
    run: &Path,
    store: &Store,
    state: &State,
    write_adapters: impl Fn(&Path) -> Result<()>,
    limit: Option<usize>,
) -> Result<Option<Error>> {
    let all = run.join("checkpoints");
    fs::create_dir_all(&all).map_err(Error::write(&all))?;
    let temporary = files::TemporaryDirectory::new(&all)?;
    write_adapters(temporary.path())?;
    files::write_bytes(&temporary.path().join(OPTIMIZER), &moments(store)?)?;
    if store.entries().iter().any(|entry| entry.name.starts_with(projected::ENCODER)) {
        files::write_bytes(&temporary.path().join(TRAINED), &numbers_of(store)?)?;
    }
    files::write_bytes(&temporary.path().join(STATE), &json(state)?)?;
    files::write_bytes(&temporary.path().join(MANIFEST), &json(&hashes(temporary.path())?)?)?;
    let place = all.join(format!("step-{}", state.step));
    if place.exists() {
        files::remove_directory(&place)?;
    }
    temporary.rename(&place)?;
    files::sync_directory(&all)?;
    Ok(prune(run, state, limit).err())
}

/// The directory of a run's checkpoint of a step.
pub fn path(run: &Path, step: u64) -> PathBuf {
    run.join("checkpoints").join(format!("step-{step}"))
}

/// Returns the steps of which a run directory has a checkpoint, newest first. They are not verified.
pub fn saved_steps(run: &Path) -> Vec<u64> {
    steps(&run.join("checkpoints"))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| Error::Train(format!("a checkpoint's state: {e}")))
}

fn moments(store: &Store) -> Result<Vec<u8>> {
    let mut tensors = BTreeMap::new();
    for Moment { name, values } in store.moments() {
        let (kind, bytes): (Dtype, &[u8]) = match values {
            Numbers::F32(values) => (Dtype::F32, bytemuck::cast_slice(values)),
            Numbers::F64(values) => (Dtype::F64, bytemuck::cast_slice(values)),
            Numbers::U8(values) => (Dtype::U8, values),
        };
        let view = TensorView::new(kind, vec![values.len()], bytes);
        tensors.insert(*name, view.map_err(|e| Error::Train(format!("optimizer state {name}: {e}")))?);
    }
    safetensors::serialize(tensors, None).map_err(|e| Error::Train(e.to_string()))
}

/// The values of a store, by name.
fn numbers_of(store: &Store) -> Result<Vec<u8>> {
    let view = |entry: &Entry| {
        let bytes = bytemuck::cast_slice(&store.values()[entry.range.clone()]);
        let view = TensorView::new(Dtype::F32, entry.shape.clone(), bytes);
        Ok((entry.name.clone(), view.map_err(|e| Error::Train(format!("{}: {e}", entry.name)))?))
    };
    let tensors = store.entries().iter().map(view).collect::<Result<BTreeMap<_, _>>>()?;
    safetensors::serialize(tensors, None).map_err(|e| Error::Train(e.to_string()))
}

/// Reads the values of a store of the same tensors.
fn read_numbers(path: &Path, adapters: &mut Adapters) -> Result<()> {
    let here = |what: String| Error::Train(format!("{}: {what}", path.display()));
    let bytes = fs::read(path).map_err(Error::read(path))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| here(e.to_string()))?;
    let mut values = adapters.values().to_vec();
    for Entry { name, shape, range } in adapters.store().entries() {
        let view = tensors.tensor(name).map_err(|e| here(format!("{name}: {e}")))?;
        match numbers(&view).map_err(|e| here(format!("{name}: {e}")))? {
            Numbers::F32(found) if view.shape() == shape.as_slice() => {
                values[range.clone()].copy_from_slice(&found);
            }
            _ => return Err(here(format!("{name} does not match this configuration"))),
        }
    }
    adapters.update(|all| all.copy_from_slice(&values));
    Ok(())
}

/// Returns the paths within a checkpoint of all its files.
pub fn files(checkpoint: &Path) -> Vec<String> {
    let mut names = hashed(checkpoint);
    names.push(MANIFEST.into());
    names
}

/// The files of which the manifest has the hashes.
fn hashed(checkpoint: &Path) -> Vec<String> {
    let mut names = vec![STATE.to_string(), OPTIMIZER.to_string()];
    names.extend(checkpoint.join(TRAINED).exists().then(|| TRAINED.to_string()));
    let others = [REFERENCE, VALUE].into_iter().filter(|directory| checkpoint.join(directory).exists());
    for directory in std::iter::once(ADAPTER).chain(others) {
        names.extend([peft::CONFIG, peft::WEIGHTS].map(|file| format!("{directory}/{file}")));
    }
    names
}

/// Returns the BLAKE3 hash of every file of a checkpoint except the manifest, by path within the checkpoint.
fn hashes(checkpoint: &Path) -> Result<BTreeMap<String, String>> {
    hashed(checkpoint)
        .into_iter()
        .map(|name| {
            let path = checkpoint.join(&name);
            let bytes = fs::read(&path).map_err(Error::read(&path))?;
            Ok((name, blake3::hash(&bytes).to_hex().to_string()))
        })
        .collect()
}

/// Returns the step numbers of a run directory's checkpoints, newest first.
fn steps(all: &Path) -> Vec<u64> {
    let entries = fs::read_dir(all).into_iter().flatten().flatten();
    let mut steps: Vec<u64> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    steps
}

/// Removes the oldest checkpoints of a run directory beyond `limit`, but never the best.
///
/// # Errors
/// If one cannot be removed.
pub fn prune(run: &Path, state: &State, limit: Option<usize>) -> Result<()> {
    let all = &run.join("checkpoints");
    let best = state.best.as_ref().map(|best| best.step);
    for step in
        steps(all).into_iter().skip(limit.unwrap_or(usize::MAX).max(1)).filter(|step| Some(*step) != best)
    {
        files::remove_directory(&all.join(format!("step-{step}")))?;
    }
    Ok(())
}

/// Returns the newest valid checkpoint of a run directory, and what is wrong with any newer ones.
pub fn newest(run: &Path) -> (Option<(PathBuf, State)>, Vec<String>) {
    let all = run.join("checkpoints");
    let mut damage = Vec::new();
    for step in steps(&all) {
        let path = all.join(format!("step-{step}"));
        match open(&path) {
            Ok(state) => return (Some((path, state)), damage),
            Err(error) => damage.push(format!("{} is damaged and skipped: {error}", path.display())),
        }
    }
    (None, damage)
}

/// Verifies all files of a checkpoint and returns its state.
///
/// # Errors
/// If a file is missing or differs from the manifest.
pub fn open(checkpoint: &Path) -> Result<State> {
    let read = |name: &str| fs::read(checkpoint.join(name)).map_err(Error::read(checkpoint.join(name)));
    let parse = |e: serde_json::Error| Error::Train(format!("{}: {e}", checkpoint.display()));
    let manifest: BTreeMap<String, String> = serde_json::from_slice(&read(MANIFEST)?).map_err(parse)?;
    let found = hashes(checkpoint)?;
    if let Some((name, _)) = found.iter().find(|(name, hash)| manifest.get(*name) != Some(*hash)) {
        return Err(Error::Train(format!("{name} does not match the manifest")));
    }
    if let Some(name) = manifest.keys().find(|name| !found.contains_key(*name)) {
        return Err(Error::Train(format!("{name} is missing")));
    }
    serde_json::from_slice(&read(STATE)?).map_err(parse)
}

/// Reads the values of an adapter of the same modules from a directory of a checkpoint.
fn restore_values(directory: &Path, spec: &DecoderSpec, adapters: &mut Adapters) -> Result<()> {
    let reading = peft::Reading { score: true, ..peft::Reading::default() };
    let found = peft::read_for(directory, spec, reading)?.adapters;
    if !adapters.restore(&found)? {
        return Err(Error::Train(format!(
            "the adapter in {} does not match this configuration",
            directory.display()
        )));
    }
    Ok(())
}

/// Restores a checkpoint's parameters and moments, and the reference's own adapter if it has one.
///
/// # Errors
/// If they do not belong to these adapters and this optimizer.
pub fn restore(
    checkpoint: &Path,
    state: &State,
    spec: &DecoderSpec,
    policy: &mut Policy,
    optimizer: &mut Optimizer,
) -> Result<()> {
    let valued = checkpoint.join(VALUE);
    let trained = if valued.exists() { valued } else { checkpoint.join(ADAPTER) };
    match checkpoint.join(TRAINED) {
        path if path.exists() => read_numbers(&path, &mut policy.trained)?,
        _ => restore_values(&trained, spec, &mut policy.trained)?,
    }
    if checkpoint.join(REFERENCE).exists() {
        let moving = policy.reference_only_mut();
        let none = || Error::Train(format!("{} has a reference that moves", checkpoint.display()));
        restore_values(&checkpoint.join(REFERENCE), spec, moving.ok_or_else(none)?)?;
    }
    let trained = &mut policy.trained;
    let path = checkpoint.join(OPTIMIZER);
    let bytes = fs::read(&path).map_err(Error::read(&path))?;
    let tensors =
        SafeTensors::deserialize(&bytes).map_err(|e| Error::Train(format!("{}: {e}", path.display())))?;
    let found: Vec<(String, Numbers)> = tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let values =
                numbers(&view).map_err(|e| Error::Train(format!("{}: {name}: {e}", path.display())))?;
            Ok((name, values))
        })
        .collect::<Result<_>>()?;
    optimizer.load_state(trained.store_mut(), state.optimizer_steps, found)
}

/// Reads a tensor of the optimizer's state.
fn numbers(view: &TensorView) -> Result<Numbers, String> {
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => Ok(Numbers::F32(bytes.as_chunks().0.iter().map(|c| f32::from_le_bytes(*c)).collect())),
        Dtype::F64 => Ok(Numbers::F64(bytes.as_chunks().0.iter().map(|c| f64::from_le_bytes(*c)).collect())),
        Dtype::U8 => Ok(Numbers::U8(bytes.to_vec())),
        other => Err(format!("an optimizer state of type {other:?}; it must be F32, F64 or U8")),
    }
}
