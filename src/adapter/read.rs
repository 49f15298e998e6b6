//! Reads adapters of any format, recognised by the content of the path.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use super::peft::{Nature, Reading};
use super::twin::{SKETCH_KEY, Sketch};
use super::{gguf, mlx, peft};
use crate::error::{Error, Result, nearest};
use crate::model::spec::DecoderSpec;
use crate::trainable::Adapters;
use crate::weights::gguf::GgufFile;

/// An adapter that was read, of any format.
#[derive(Debug)]
pub struct Adapter {
    /// Its modules, fitted to the decoder.
    pub adapters: Adapters,
    /// The base it was trained on, as its maker named it.
    pub base: Option<String>,
    /// Fingerprint of that base's weights, if it is known.
    pub fingerprint: Option<String>,
    /// A sketch of that base's weights, if it is known.
    pub sketch: Option<Sketch>,
    /// Its format.
    pub format: Format,
    /// Notes for the user about how it was read.
    pub notes: Vec<String>,
}

/// Formats of adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// PEFT's directory, also as Unsloth and LLaMA-Factory write it.
    Peft,
    /// mlx-lm's directory.
    Mlx,
    /// llama.cpp's file.
    Gguf,
}

/// The format of the adapter at a path, by its name and its first bytes; `None` if it is not an adapter.
pub fn format_of(path: &Path) -> Option<Format> {
    if path.join(mlx::WEIGHTS).exists() && !path.join(peft::WEIGHTS).exists() {
        return Some(Format::Mlx);
    }
    if path.is_file() && is_gguf(path) {
        return Some(Format::Gguf);
    }
    path.join(peft::CONFIG).exists().then_some(Format::Peft)
}

fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        || File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok_and(|()| magic == *b"GGUF")
}

/// Returns the path of the adapter that a name means: the path itself, or `adapter` in it if it is a run directory or a
/// checkpoint.
///
/// # Errors
/// [`Error::Config`] if there is nothing at the path, it is a run that has no adapter yet, or a folder of several adapters.
pub fn located(path: &Path) -> Result<PathBuf> {
    if path.is_file() || format_of(path).is_some() {
        return Ok(path.to_path_buf());
    }
    let inner = path.join("adapter");
    if format_of(&inner).is_some() {
        return Ok(inner);
    }
    if !path.exists() {
        return Err(Error::Config(format!("there is no adapter {}{}", path.display(), did_you_mean(path))));
    }
    if path.join("checkpoints").is_dir() {
        return Err(Error::Config(format!(
            "{0} is a run that has no adapter yet; continue it with `dpo-lora train --resume {0}`, or name one of \
             {0}/checkpoints/step-N",
            path.display()
        )));
    }
    let inside = adapters_in(path);
    if !inside.is_empty() {
        return Err(Error::Config(format!(
            "{} is no adapter itself, but holds {}; name one of them",
            path.display(),
            inside.join(", ")
        )));
    }
    Ok(path.to_path_buf())
}

/// The folders of a directory that are adapters, as PEFT writes those that have names; the first ones of many.
fn adapters_in(path: &Path) -> Vec<String> {
    const FIRST: usize = 8;
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<String> = entries
        .filter(|entry| entry.is_dir() && is_adapter(entry))
        .map(|entry| entry.display().to_string())
        .collect();
    found.sort();
    let more = found.len().saturating_sub(FIRST);
    found.truncate(FIRST);
    found.extend((more > 0).then(|| format!("{more} more")));
    found
}

/// `; did you mean x?` if a file of a similar name is beside the path.
fn did_you_mean(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let beside = std::fs::read_dir(crate::files::parent(path)).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        beside.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    match nearest(&name, names.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean {}?", path.with_file_name(near).display()),
        None => String::new(),
    }
}

/// Whether there is an adapter at the path; a GGUF file may be a model too.
pub fn is_adapter(path: &Path) -> bool {
    match format_of(path) {
        Some(Format::Gguf) => GgufFile::open(path)
            .is_ok_and(|file| matches!(file.metadata().text("general.type"), Ok(Some("adapter")))),
        format => format.is_some(),
    }
}

/// What can be made of an adapter, by its settings alone.
///
/// # Errors
/// As [`located`] and [`peft::PeftConfig::open`].
pub fn nature(path: &Path) -> Result<Nature> {
    let path = located(path)?;
    match format_of(&path) {
        Some(Format::Gguf | Format::Mlx) => Ok(Nature::Lora),
        Some(Format::Peft) | None => {
            let accepted = peft::Accepted { score: true, forced: true };
            Ok(peft::PeftConfig::open_for(&path, accepted)?.nature())
        }
    }
}

/// The base that an adapter names and the fingerprint of its weights, whether or not it fits another; `None` if it has
/// neither.
pub fn origin(path: &Path) -> Option<(String, String)> {
    let fingerprint = peft::metadata(&path.join(peft::WEIGHTS)).ok()?.remove(peft::FINGERPRINT_KEY)?;
    Some((peft::PeftConfig::open(path).ok()?.base_model_name_or_path?, fingerprint))
}

/// Returns the file of an adapter that holds its metadata, and these; none if there is no such file.
///
/// # Errors
/// As [`located`]; or if the file is damaged.
pub fn noted(path: &Path) -> Result<(PathBuf, BTreeMap<String, String>)> {
    let path = located(path)?;
    let weights = match format_of(&path) {
        Some(Format::Gguf) => return gguf::metadata(&path).map(|metadata| (path, metadata)),
        Some(Format::Mlx) => path.join(mlx::WEIGHTS),
        Some(Format::Peft) | None => path.join(peft::WEIGHTS),
    };
    let metadata = if weights.is_file() { peft::metadata(&weights)? } else { BTreeMap::new() };
    Ok((weights, metadata))
}

/// Reads an adapter for a decoder; with `head`, the language-model head may be adapted too.
///
/// # Errors
/// As [`read_for`].
pub fn read(path: &Path, spec: &DecoderSpec, head: bool) -> Result<Adapter> {
    read_for(path, spec, Reading { head, ..Reading::default() })
}

/// Reads an adapter for a decoder, with options.
///
/// # Errors
/// As [`peft::read`], [`mlx::read`] and [`gguf::read`].
pub fn read_for(path: &Path, spec: &DecoderSpec, reading: Reading) -> Result<Adapter> {
    match format_of(path) {
        Some(Format::Mlx) => mlx::read(path, spec),
        Some(Format::Gguf) => gguf::read(path, spec, reading.head),
        _ if path.is_file() => Err(Error::Adapter(format!(
            "{} is a file; an adapter is a directory as PEFT or mlx-lm writes it, or a .gguf file",
            path.display()
        ))),
        _ => Ok(peft::read_for(path, spec, reading)?.into()),
    }
}

impl From<peft::Adapter> for Adapter {
    fn from(adapter: peft::Adapter) -> Self {
        let peft::Adapter { adapters, config, metadata, notes } = adapter;
        let fingerprint = metadata.get(peft::FINGERPRINT_KEY).cloned();
        // A damaged one helps nobody; the fingerprint decides.
        let sketch = metadata.get(SKETCH_KEY).and_then(|text| Sketch::from_text(text).ok());
        Self {
            adapters,
            base: config.base_model_name_or_path,
            fingerprint,
            sketch,
            format: Format::Peft,
            notes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a configuration of an adapter with these settings.
    fn adapter(place: &Path, name: &str, settings: &str) -> PathBuf {
        let path = place.join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(peft::CONFIG), format!("{{\"peft_type\": {settings}}}")).unwrap();
        path
    }

    #[test]
    fn a_folder_of_adapters_names_them() {
        let place = tempfile::tempdir().unwrap();
        let [mine, other] = ["mine", "other"].map(|name| adapter(place.path(), name, "\"LORA\""));
        let error = located(place.path()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let words = format!("holds {}, {}; name one of them", mine.display(), other.display());
        assert!(error.to_string().contains(&words), "{error}");
        assert_eq!(located(&mine).unwrap(), mine);
        // A run directory, and a folder of no adapters.
        let inner = adapter(place.path(), "run/adapter", "\"LORA\"");
        assert_eq!(located(&place.path().join("run")).unwrap(), inner);
        std::fs::create_dir(place.path().join("none")).unwrap();
        assert!(located(&place.path().join("none")).is_ok());
    }

    #[test]
    fn weights_that_are_not_there_are_told() {
        let place = tempfile::tempdir().unwrap();
        let path = adapter(place.path(), "a", "\"LORA\"");
        let said = || peft::read_alone(&path).unwrap_err().to_string();
        let none = "there is no adapter_model.safetensors beside adapter_config.json";
        assert!(said().contains(none), "{}", said());
        std::fs::write(path.join("adapter_model.safetensors.index.json"), "{}").unwrap();
        assert!(said().contains("in several files (adapter_model.safetensors.index.json)"), "{}", said());
    }

    #[test]
    fn the_nature_of_an_adapter_is_in_its_settings() {
        let place = tempfile::tempdir().unwrap();
        for (settings, expected) in [
            ("\"LORA\", \"modules_to_save\": null, \"trainable_token_indices\": null", Nature::Lora),
            ("\"LORA\", \"use_dora\": true", Nature::Mergeable),
            ("\"LORA\", \"modules_to_save\": [\"lm_head\"]", Nature::Mergeable),
            ("\"LORA\", \"trainable_token_indices\": [1]", Nature::Mergeable),
            ("\"PREFIX_TUNING\"", Nature::Beside),
            ("\"ADAPTER_LAYERS\"", Nature::Beside),
        ] {
            assert_eq!(nature(&adapter(place.path(), "a", settings)).unwrap(), expected, "{settings}");
        }
    }
}
