//! Rewards that a spec names, also those that need the base.

use std::path::Path;
use std::time::Duration;

use super::{AdapterUse, Base, TrainedWith};
use crate::adapter::read;
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::reward::{LogRatio, Reward, RewardModel, Spec};
use crate::trainable::Policy;

impl Base {
    /// The reward of a spec. An adapter's is computed by `decoder`, which must be this base; a command may take `timeout`
    /// for a call.
    ///
    /// # Errors
    /// As [`Spec::plain`]; or if the adapter cannot be read or belongs to another base.
    pub fn reward<'a>(
        &self,
        decoder: &'a Decoder,
        spec: &Spec,
        timeout: Duration,
    ) -> Result<Box<dyn Reward + 'a>> {
        let Spec::Adapter(directory) = spec else { return spec.plain(timeout) };
        let purpose = AdapterUse { score: true, ..AdapterUse::default() };
        let policy = Policy::of(self.adapter_for(Path::new(directory), purpose)?);
        let trained = TrainedWith::of(Path::new(directory))?;
        if policy.trained.score().is_some() {
            let pad = self.tokenizer(None)?.padding();
            return Ok(Box::new(RewardModel::new(decoder, policy, pad, spec.to_string())));
        }
        let objective =
            trained.objective_of(directory, "name the adapter as dpo-lora train or export wrote it");
        Ok(Box::new(LogRatio::new(decoder, policy, objective, spec.to_string())))
    }
}

/// Returns a text that is the same on machines where a reward gives the same: as [`reward_identity`], but of a command its words
/// alone, since what it starts may be built otherwise on another machine.
///
/// # Errors
/// As [`reward_identity`].
pub fn reward_in_short(spec: &Spec) -> Result<String> {
    match spec {
        Spec::Adapter(_) => reward_identity(spec),
        Spec::Command(_) | Spec::Length | Spec::Regex(_) | Spec::TinyReviews => Ok(spec.to_string()),
    }
}

/// Returns a text that changes with what a reward gives: its spec, the files of its adapter, and those that a command names.
///
/// # Errors
/// If a file of an adapter cannot be read.
pub fn reward_identity(spec: &Spec) -> Result<String> {
    let hash = |path: &Path| -> Result<String> {
        let bytes = std::fs::read(path).map_err(Error::read(path))?;
        Ok(blake3::hash(&bytes).to_hex().to_string())
    };
    let mut said = spec.to_string();
    match spec {
        Spec::Adapter(directory) => {
            let located = read::located(Path::new(directory))?;
            for file in files_of(&located)? {
                said = format!("{said} {}", hash(&file)?);
            }
        }
        Spec::Command(text) => {
            for word in shlex::split(text).unwrap_or_default() {
                let path = Path::new(&word);
                // A program that is found in the path, or an option: its name says what it is.
                if path.is_file() {
                    said = format!("{said} {}", hash(path)?);
                }
            }
        }
        Spec::Length | Spec::Regex(_) | Spec::TinyReviews => {}
    }
    Ok(said)
}

/// The files of an adapter, sorted.
fn files_of(adapter: &Path) -> Result<Vec<std::path::PathBuf>> {
    if adapter.is_file() {
        return Ok(vec![adapter.to_path_buf()]);
    }
    let entries = std::fs::read_dir(adapter).map_err(Error::read(adapter))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::read(adapter))?.path();
        let counts = |end: &std::ffi::OsStr| end == "json" || end == "safetensors";
        if path.is_file() && path.extension().is_some_and(counts) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
