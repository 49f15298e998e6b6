//! Bases and data sets named by their place on the Hugging Face Hub, with a progress bar a file.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};

use super::embedded;
use crate::error::{Error, Result, nearest};
use crate::files;
use crate::hub::{DatasetRef, Hub, HubId, Progress};

/// The prefix of a data set's name.
pub const PREFIX: &str = "hub:";

/// A base of the Hub.
pub struct Model {
    /// Where its files are.
    pub directory: PathBuf,
    /// `owner/name`.
    pub repository: String,
    /// The commit of its files.
    pub commit: String,
}

/// Returns a base `owner/name[@revision]`, downloaded if it is not in the cache.
///
/// # Errors
/// If the name is not such an id, or the Hub has no such model.
pub fn model(name: &str) -> Result<Model> {
    let id = HubId::parse(name).map_err(|e| {
        let hint = near(name).map_or(String::new(), |near| format!(" (did you mean {near}?)"));
        Error::Config(format!(
            "there is no directory {name}{hint}, and it is not a Hub id either ({e}); a base is a directory with config.json, \
             tokenizer.json and safetensors weights, a .gguf file, or owner/name[@revision]"
        ))
    })?;
    let found = client()?.model(&id)?;
    log::info!("{id} is at commit {}", found.commit);
    Ok(Model { directory: found.directory, repository: id.repository(), commit: found.commit })
}

/// The nearest name of a base: the embedded one, or a file or directory beside the path.
pub fn near(name: &str) -> Option<String> {
    let path = Path::new(name);
    let beside = std::fs::read_dir(files::parent(path)).into_iter().flatten().flatten();
    let mut names: Vec<String> = beside
        .map(|entry| path.with_file_name(entry.file_name()))
        .filter(|path| path.is_dir() || is_gguf(path))
        .map(|path| path.display().to_string())
        .collect();
    names.push(embedded::NAME.into());
    names.sort();
    nearest(name, names.iter().map(String::as_str)).map(String::from)
}

/// Whether a path is named as a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// The repository and the commit of a directory in the Hub's cache, `.../models--owner--name/snapshots/COMMIT`.
pub fn cached(directory: &str) -> Option<(String, String)> {
    let path = std::fs::canonicalize(directory).ok()?;
    let (commit, snapshots) = (path.file_name()?.to_str()?, path.parent()?);
    let repository = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    let (owner, name) = repository.split_once("--")?;
    let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_commit && snapshots.ends_with("snapshots")).then(|| (format!("{owner}/{name}"), commit.to_string()))
}

/// The files of a data set `owner/name[/config][:split]`.
///
/// # Errors
/// As [`model`].
pub fn dataset(name: &str) -> Result<Vec<String>> {
    let found = client()?.dataset(&DatasetRef::parse(name)?)?;
    log::info!("{PREFIX}{name} is at commit {}", found.snapshot.commit);
    Ok(found.files.iter().map(|path| path.display().to_string()).collect())
}

fn client() -> Result<Hub> {
    Ok(Hub::from_env()?.with_progress(Bar::default()))
}

/// One bar, for the current file; hidden where standard error is not a terminal.
#[derive(Default)]
struct Bar {
    current: Mutex<Option<ProgressBar>>,
}

impl Bar {
    /// Puts another bar in place; hands back the one before.
    fn replace(&self, bar: Option<ProgressBar>) -> Option<ProgressBar> {
        self.current.lock().map_or(None, |mut current| std::mem::replace(&mut *current, bar))
    }
}

impl Progress for Bar {
    fn begin(&self, file: &str, size: Option<u64>, have: u64) {
        let bar = size.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let style =
            ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(file.to_string());
        bar.set_position(have);
        self.replace(Some(bar));
    }

    fn advance(&self, bytes: u64) {
        if let Ok(Some(bar)) = self.current.lock().as_deref() {
            bar.inc(bytes);
        }
    }

    fn end(&self) {
        if let Some(bar) = self.replace(None) {
            bar.finish_and_clear();
        }
    }

    fn note(&self, message: &str) {
        log::info!("{message}");
    }
}
