//! A run's directory, used by one process at a time and never overwritten by accident.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use super::checkpoint;
use crate::adapter::read;
use crate::error::{Error, Result};
use crate::files;

/// A run directory, locked by this process until it is dropped, or that of a run whose files another process writes.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    // Closing the file releases the lock, even if the process is killed.
    lock: Option<File>,
}

/// What is done with a directory that is already used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It is refused; only an unused directory is accepted.
    Fresh,
    /// Its run is continued; a directory without one is refused.
    Resume,
    /// Its run is continued if there is one, else a run is started.
    ResumeOrStart,
    /// Files of the earlier run are removed.
    Overwrite,
}

/// The files that a run writes; all other files in the directory are left untouched.
const OURS: &[&str] = &[
    "config.yaml",
    "metrics.jsonl",
    "warnings.jsonl",
    "samples.jsonl",
    "held_out.json",
    "mlflow.json",
    "wandb.json",
    "skipped.jsonl",
    "checkpoints",
    "adapter",
    "report.html",
];

impl RunDir {
    /// Creates or opens the directory and locks it.
    ///
    /// # Errors
    /// If it is used and `opening` is [`Opening::Fresh`], if another process holds it, or if it cannot be written.
    pub fn open(path: &Path, opening: Opening) -> Result<Self> {
        if opening == Opening::Resume {
            check_begun(path)?;
        }
        fs::create_dir_all(path).map_err(Error::write(path))?;
        let run = Self { path: path.to_path_buf(), lock: Some(lock(path)?) };
        run.sweep()?;
        match opening {
            Opening::Fresh => check_unused(&run.path).map(|()| run),
            Opening::Overwrite => run.clear().map(|()| run),
            Opening::Resume | Opening::ResumeOrStart => Ok(run),
        }
    }

    /// Opens the first of `path`, `path-2`, `path-3`, ... that no run has used and no process holds: of runs that start at the same
    /// time each gets one of its own. `path` may be any of these names.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn open_next(path: &Path) -> Result<Self> {
        for candidate in candidates(&unnumbered(path)).filter(|candidate| !is_used(candidate)) {
            fs::create_dir_all(&candidate).map_err(Error::write(&candidate))?;
            let mut file = lock_file(&candidate)?;
            if !locked(&mut file, &candidate)? {
                continue;
            }
            let run = Self { path: candidate, lock: Some(file) };
            // A run may have ended there in the meantime.
            if !is_used(&run.path) {
                return run.sweep().map(|()| run);
            }
        }
        Self::open(path, Opening::Fresh)
    }

    /// The directory of a run that another process writes, which need not exist here.
    pub fn of_another(path: &Path) -> Self {
        Self { path: path.to_path_buf(), lock: None }
    }

    /// Whether this process writes it.
    pub fn is_ours(&self) -> bool {
        self.lock.is_some()
    }

    /// Returns the directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes temporary files. This is safe because this process holds the lock, so nobody else is writing them.
    fn sweep(&self) -> Result<()> {
        files::sweep(&self.path)?;
        ["checkpoints", "adapter"].iter().try_for_each(|name| files::sweep(&self.path.join(name)))
    }

    fn clear(&self) -> Result<()> {
        // The list of the stages is in a file that is removed.
        let stages = stages(&self.path);
        for path in written(&self.path).map_err(Error::read(&self.path))? {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::write(&path)(e)),
                _ => {}
            }
        }
        stages.into_iter().try_for_each(|stage| {
            drop(Self::open(&stage, Opening::Overwrite)?);
            let lock = stage.join(LOCK);
            fs::remove_file(&lock).map_err(Error::write(&lock))?;
            // What is not ours stays, and with it the directory.
            let _ = fs::remove_dir(&stage);
            Ok::<(), Error>(())
        })?;
        files::sync_directory(&self.path)
    }
}

/// The paths that a run writes in its directory, without the directories of stages.
fn written(run: &Path) -> std::io::Result<Vec<PathBuf>> {
    let events = fs::read_dir(run)?.flatten().map(|entry| entry.path()).filter(|path| {
        path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("events.out.tfevents."))
    });
    Ok(events.chain(OURS.iter().map(|name| run.join(name))).collect())
}

/// Refuses a configuration that names what [`Opening::Overwrite`] would remove from these run directories: an adapter, data, a
/// template, a cache. What the run itself makes there before it is read is in `made`.
///
/// # Errors
/// [`Error::Config`] with the key, the path and the remedy.
pub fn check_overwritten(runs: &[PathBuf], config: &impl Serialize, made: &[PathBuf]) -> Result<()> {
    let all = runs.iter().flat_map(|run| std::iter::once(run.clone()).chain(stages(run)));
    let removed = all.flat_map(|run| written(&run).unwrap_or_default());
    let removed: Vec<PathBuf> = removed.filter_map(|path| fs::canonicalize(path).ok()).collect();
    let config = serde_yaml::to_value(config)
        .map_err(|error| Error::Config(format!("the configuration cannot be written as YAML: {error}")))?;
    let mut texts = Vec::new();
    collect_texts("", &config, &mut texts);
    for (key, text) in texts {
        for path in named_paths(&key, &text).into_iter().filter(|path| !made.contains(path)) {
            let lies = |real: PathBuf| removed.iter().any(|removed| real.starts_with(removed));
            if fs::canonicalize(&path).is_ok_and(lies) {
                return Err(Error::Config(format!(
                    "{key} is {text}, and --overwrite would remove {} with the earlier run; choose another output_dir, or copy \
                     it out of the run directory and name the copy",
                    path.display()
                )));
            }
        }
    }
    Ok(())
}

/// Adds all texts of a value with their keys, except the run directory.
fn collect_texts(key: &str, value: &Value, texts: &mut Vec<(String, String)>) {
    match value {
        // A name and prompts are no paths.
        Value::String(text)
            if !["output_dir", "train.run_name"].contains(&key)
                && !key.starts_with("train.sample_prompts") =>
        {
            texts.push((key.into(), text.clone()));
        }
        Value::Sequence(all) => {
            all.iter().enumerate().for_each(|(i, one)| collect_texts(&format!("{key}[{i}]"), one, texts));
        }
        Value::Mapping(keys) => {
            for (inner, value) in keys {
                let inner = inner.as_str().unwrap_or("?");
                let key = if key.is_empty() { inner.into() } else { format!("{key}.{inner}") };
                collect_texts(&key, value, texts);
            }
        }
        _ => {}
    }
}

/// The paths that the text of a key may stand for: a file or directory, the adapter of a run, what follows `adapter:` and the
/// like, or the files of a glob.
fn named_paths(key: &str, text: &str) -> Vec<PathBuf> {
    let is_adapter = key.starts_with("model.adapter") || key == "lora.init_from";
    let (kind, rest) = text.split_once(':').unwrap_or_default();
    let adapters = [(is_adapter, text), (kind == "adapter", rest)].into_iter().filter(|(is, _)| *is);
    let adapters = adapters.filter_map(|(_, path)| read::located(Path::new(path)).ok());
    let mut paths: Vec<PathBuf> = adapters.collect();
    paths.extend([text, rest].iter().filter(|path| !path.is_empty()).map(PathBuf::from));
    if text.contains(['*', '?', '[']) && !text.contains(['\n', '{']) {
        paths.extend(glob::glob(text).into_iter().flatten().flatten());
    }
    paths
}

/// The name of the lock file.
const LOCK: &str = ".lock";

fn is_used(path: &Path) -> bool {
    OURS.iter().any(|name| path.join(name).exists()) || !stages(path).is_empty()
}

/// Refuses a directory that holds a run.
///
/// # Errors
/// [`Error::Config`] with the ways to use it all the same.
pub fn check_unused(path: &Path) -> Result<()> {
    if !is_used(path) {
        return Ok(());
    }
    Err(Error::Config(format!(
        "{} holds an earlier run; --resume continues it, --overwrite starts over, or choose another output_dir",
        path.display()
    )))
}

/// The name of the directory of a stage, counted from 0.
pub fn stage_name(index: usize, name: &str) -> String {
    format!("{}-{name}", index + 1)
}

/// What a configuration says about its stages.
#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    stages: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// Returns the directories of the stages that the `config.yaml` of a run directory lists and that exist, in order. Only
/// these: a directory such as `1-lr5` or `2026-11-27` in a folder of runs is a run by itself.
pub fn stages(run: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(run.join("config.yaml")).unwrap_or_default();
    let listed = serde_yaml::from_str::<Listed>(&text).map_or_else(|_| Vec::new(), |listed| listed.stages);
    // A file that was changed by hand cannot name a directory elsewhere.
    let is_plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    let names = listed.iter().enumerate().filter(|(_, stage)| is_plain(&stage.name));
    names
        .map(|(index, stage)| run.join(stage_name(index, &stage.name)))
        .filter(|path| path.is_dir() && !path.is_symlink())
        .collect()
}

/// Returns the run that this directory is a stage of.
pub fn whole_of(stage: &Path) -> Option<PathBuf> {
    let stage = if stage.file_name().is_some() { stage.to_path_buf() } else { stage.canonicalize().ok()? };
    let whole = files::parent(&stage);
    let is_it = |other: &PathBuf| other.file_name() == stage.file_name();
    stages(whole).iter().any(is_it).then(|| whole.to_path_buf())
}

/// Whether a directory holds a run that was begun: its configuration, its checkpoints or its stages.
pub fn is_run(path: &Path) -> bool {
    path.join("config.yaml").is_file() && path.join("metrics.jsonl").exists()
        || path.join("checkpoints").is_dir()
        || !stages(path).is_empty()
}

/// Refuses a directory without a run that could be continued.
///
/// # Errors
/// The message names run directories nearby.
pub fn check_begun(path: &Path) -> Result<()> {
    if is_used(path) {
        return Ok(());
    }
    let found = if path.is_dir() { "holds no run" } else { "does not exist" };
    let near = nearby(path);
    let near = if near.is_empty() {
        "there is no run directory nearby".into()
    } else {
        let described = |run: &PathBuf| match checkpoint::saved_steps(run).first() {
            Some(step) => format!("{} (step {step})", run.display()),
            None => format!("{} (no checkpoint yet)", run.display()),
        };
        format!("run directories nearby: {}", near.iter().map(described).collect::<Vec<_>>().join(", "))
    };
    Err(Error::Config(format!(
        "{} {found}, so there is nothing to resume; {near}. Leave out --resume to start a run",
        path.display()
    )))
}

/// Run directories beside a path, in it, and in `runs`; those of a similar name first.
pub fn nearby(path: &Path) -> Vec<PathBuf> {
    const SHOWN: usize = 5;
    let named = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found: Vec<PathBuf> = Vec::new();
    for place in [files::parent(path), path, Path::new("runs"), Path::new(".")] {
        let entries = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(entries.filter(|run| is_run(run)).map(|run| match run.strip_prefix("./") {
            Ok(short) => short.to_path_buf(),
            Err(_) => run.clone(),
        }));
    }
    let far = |run: &PathBuf| {
        let name = run.file_name().unwrap_or_default().to_string_lossy();
        (strsim::damerau_levenshtein(&named, &name), run.clone())
    };
    found.sort_by_cached_key(far);
    found.dedup();
    found.truncate(SHOWN);
    found
}

/// Locks the directory. A process killed a moment ago may still hold the lock while its memory is freed, so locking is retried
/// for two seconds.
fn lock(run: &Path) -> Result<File> {
    const TRIES: u32 = 40;
    let mut lock = lock_file(run)?;
    for _ in 0..TRIES {
        if locked(&mut lock, run)? {
            return Ok(lock);
        }
        sleep(Duration::from_millis(50));
    }
    let path = run.join(LOCK);
    let holder = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let holder = holder.map_or("another process".into(), |id| format!("process {id}"));
    Err(Error::Config(format!(
        "{} is in use by {holder}; wait for it, or choose another output_dir",
        run.display()
    )))
}

/// Opens the lock file of a directory.
fn lock_file(run: &Path) -> Result<File> {
    let path = run.join(LOCK);
    // Not truncated: the file holds the id of the current lock holder.
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    open.map_err(Error::write(&path))
}

/// Locks a directory, unless another process holds it, and writes this process's id into the lock file.
fn locked(lock: &mut File, run: &Path) -> Result<bool> {
    match lock.try_lock() {
        Ok(()) => {
            // The id is used only in a message, so a full disk must not prevent opening the run.
            let _ =
                lock.set_len(0).and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()));
            Ok(true)
        }
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(Error::write(run.join(LOCK))(e)),
    }
}

/// Returns the first of `path`, `path-2`, `path-3`, ... that no run has used.
pub fn numbered(path: &Path) -> PathBuf {
    candidates(path).find(|candidate| !is_used(candidate)).unwrap_or_else(|| path.into())
}

/// Returns the last of `path`, `path-2`, `path-3`, ... before the first that no run has used; `path` if there is none.
pub fn last_used(path: &Path) -> PathBuf {
    candidates(path).take_while(|candidate| is_used(candidate)).last().unwrap_or_else(|| path.into())
}

/// `path` of `path`, `path-2`, `path-3`, ...
fn unnumbered(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.rsplit_once('-') {
        Some((first, number))
            if !first.is_empty() && number.parse::<u32>().is_ok_and(|number| number > 1) =>
        {
            path.with_file_name(first)
        }
        _ => path.to_path_buf(),
    }
}

/// `path`, `path-2`, `path-3`, ...
fn candidates(path: &Path) -> impl Iterator<Item = PathBuf> {
    let name = path.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned());
    let more = (2u32..).map(move |i| path.with_file_name(format!("{name}-{i}")));
    std::iter::once(path.to_path_buf()).chain(more)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn used_directories_are_refused_gone_on_with_or_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        drop(RunDir::open(&path, Opening::Fresh).unwrap());
        drop(RunDir::open(&path, Opening::Fresh).unwrap());
        fs::write(path.join("config.yaml"), "").unwrap();
        fs::write(path.join("notes.txt"), "not ours").unwrap();
        let error = RunDir::open(&path, Opening::Fresh).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("--resume"));
        drop(RunDir::open(&path, Opening::Resume).unwrap());
        assert!(numbered(&path).ends_with("run-2") && last_used(&path).ends_with("run"));
        fs::create_dir_all(directory.path().join("run-2/checkpoints")).unwrap();
        assert!(numbered(&path).ends_with("run-3") && last_used(&path).ends_with("run-2"));
        let typo = RunDir::open(&directory.path().join("rnu"), Opening::Resume).unwrap_err().to_string();
        assert!(typo.contains("does not exist") && typo.contains("run-2"), "{typo}");
        assert!(!directory.path().join("rnu").exists());
        drop(RunDir::open(&path, Opening::Overwrite).unwrap());
        assert!(!path.join("config.yaml").exists() && path.join("notes.txt").exists());
        assert!(last_used(&path).ends_with("run"), "the first is not used, so that there is none");
    }

    #[test]
    fn stages_are_those_that_the_run_lists() {
        let directory = tempfile::tempdir().unwrap();
        let runs = directory.path();
        // A folder of runs, two of which are named like stages.
        for name in ["2026-11-27", "1-lr5"] {
            drop(RunDir::open(&runs.join(name), Opening::Fresh).unwrap());
            fs::write(runs.join(name).join("config.yaml"), "seed: 1\n").unwrap();
        }
        assert!(stages(runs).is_empty() && !is_run(runs));
        drop(RunDir::open(runs, Opening::Fresh).unwrap());
        // A run with stages in the same folder.
        let list = "stages: [{name: sft}, {name: ../1-lr5}, {name: dpo}, {name: kto}]\n";
        fs::write(runs.join("config.yaml"), list).unwrap();
        for name in ["1-sft", "3-dpo"] {
            // One without a lock file, as a copy may be.
            fs::create_dir_all(runs.join(name).join("checkpoints")).unwrap();
        }
        assert_eq!(stages(runs), [runs.join("1-sft"), runs.join("3-dpo")]);
        assert_eq!(whole_of(&runs.join("3-dpo")).as_deref(), Some(runs));
        assert_eq!(whole_of(&runs.join("1-lr5")), None);
        drop(RunDir::open(runs, Opening::Overwrite).unwrap());
        assert!(!runs.join("1-sft").exists() && !runs.join("3-dpo").exists());
        for name in ["2026-11-27", "1-lr5"] {
            assert!(runs.join(name).join("config.yaml").is_file(), "{name} is a run by itself");
        }
    }

    #[test]
    fn what_a_run_reads_is_not_removed_to_start_over() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        for name in ["adapter", "checkpoints/step-2/adapter", "1-sft/adapter", "data"] {
            fs::create_dir_all(run.join(name)).unwrap();
        }
        fs::write(run.join("adapter/adapter_config.json"), "{}").unwrap();
        fs::write(run.join("config.yaml"), "stages: [{name: sft}]\n").unwrap();
        for name in ["skipped.jsonl", "pairs.jsonl"] {
            fs::write(run.join(name), "{}\n").unwrap();
        }
        let at = |name: &str| run.join(name).display().to_string();
        let check = |key: &str, value: &str, made: &[PathBuf]| {
            let config = BTreeMap::from([("output_dir", at("")), (key, value.to_string())]);
            let nested: Value =
                serde_yaml::from_str(&format!("{{model: {{adapter: [x, '{value}']}}}}")).unwrap();
            let found = match key {
                "model.adapter" => check_overwritten(std::slice::from_ref(&run), &nested, made),
                _ => check_overwritten(std::slice::from_ref(&run), &config, made),
            };
            found.map_err(|error| error.to_string()).err().unwrap_or_default()
        };
        for (key, value, told) in [
            ("model.adapter", at("adapter"), "model.adapter[1] is"),
            ("model.adapter", at(""), "model.adapter[1] is"),
            ("lora.init_from", at("checkpoints/step-2"), "lora.init_from is"),
            ("data.train", at("skipped.jsonl"), "data.train is"),
            ("data.eval", at("*.jsonl"), "data.eval is"),
            ("rollout.reward", format!("adapter:{}", at("")), "rollout.reward is"),
            ("train.reference_cache", at("1-sft/adapter"), "train.reference_cache is"),
        ] {
            let found = check(key, &value, &[]);
            assert!(found.starts_with(told) && found.contains("--overwrite would remove"), "{key}: {found}");
        }
        assert_eq!(check("model.adapter", &at("1-sft/adapter"), &[run.join("1-sft/adapter")]), "");
        for (key, value) in
            [("data.train", at("pairs.jsonl")), ("data.cache", at("data")), ("train.run_name", at(""))]
        {
            assert_eq!(check(key, &value, &[]), "", "{key}");
        }
        assert!(run.join("adapter/adapter_config.json").exists(), "nothing is removed");
    }

    #[test]
    fn runs_that_start_at_once_get_directories_of_their_own() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let first = RunDir::open_next(&at("run")).unwrap();
        // Both have seen that `run` is not used.
        let second = RunDir::open_next(&at("run")).unwrap();
        fs::create_dir_all(at("run-3/checkpoints")).unwrap();
        let third = RunDir::open_next(&at("run-3")).unwrap();
        let paths = [first, second, third].map(|run| run.path().to_path_buf());
        assert_eq!(paths, [at("run"), at("run-2"), at("run-4")]);
        // Nothing was written there, and nobody holds it any more.
        assert_eq!(RunDir::open_next(&at("run-2")).unwrap().path(), at("run"));
    }

    #[test]
    fn one_process_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let held = RunDir::open(directory.path(), Opening::Fresh).unwrap();
        let second = RunDir::open(directory.path(), Opening::ResumeOrStart);
        let holder = format!("in use by process {}", std::process::id());
        assert!(second.unwrap_err().to_string().contains(&holder));
        // One that lets go within two seconds, as a killed process does, is waited for.
        let letting_go = std::thread::spawn(move || {
            sleep(Duration::from_millis(200));
            drop(held);
        });
        RunDir::open(directory.path(), Opening::ResumeOrStart).unwrap();
        letting_go.join().unwrap();
    }
}
