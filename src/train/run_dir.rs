//! A run's directory, used by one process at a time and never overwritten by accident.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::files;

/// A run directory, locked by this process until it is dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    // Held but never read: closing the file releases the lock, even if the process is killed.
    _lock: File,
}

/// What is done with a directory that is already used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It is refused; only an unused directory is accepted.
    Fresh,
    /// Its run is continued.
    Resume,
    /// Files of the earlier run are removed.
    Overwrite,
}

/// The files that a run writes; all other files in the directory are left untouched.
const OURS: &[&str] =
    &["config.yaml", "metrics.jsonl", "checkpoints", "adapter", "report.html", "skipped.jsonl"];

impl RunDir {
    /// Creates or opens the directory and locks it.
    ///
    /// # Errors
    /// If it is used and `opening` is [`Opening::Fresh`], if another process holds it, or if it cannot be written.
    pub fn open(path: &Path, opening: Opening) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::write(path))?;
        let run = Self { path: path.to_path_buf(), _lock: lock(path)? };
        run.sweep()?;
        match opening {
            Opening::Fresh if run.is_used() => Err(Error::Config(format!(
                "{} holds an earlier run; --resume continues it, --overwrite starts over, or choose another output_dir",
                path.display()
            ))),
            Opening::Overwrite => run.clear().map(|()| run),
            _ => Ok(run),
        }
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

    fn is_used(&self) -> bool {
        OURS.iter().any(|name| self.path.join(name).exists())
    }

    fn clear(&self) -> Result<()> {
        let events = fs::read_dir(&self.path).map_err(Error::read(&self.path))?.flatten().map(|e| e.path());
        let events = events.filter(|p| {
            p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("events.out.tfevents."))
        });
        for path in events.chain(OURS.iter().map(|name| self.path.join(name))) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::write(&path)(e)),
                _ => {}
            }
        }
        files::sync_directory(&self.path)
    }
}

/// Locks the directory and writes this process's id into the lock file. A process killed a moment ago may still hold
/// the lock while its memory is freed, so locking is retried for two seconds.
fn lock(run: &Path) -> Result<File> {
    const TRIES: u32 = 40;
    let path = run.join(".lock");
    // Not truncated: the file holds the id of the current lock holder.
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut lock = open.map_err(Error::write(&path))?;
    for _ in 0..TRIES {
        match lock.try_lock() {
            Ok(()) => {
                // The id is used only in a message, so a full disk must not prevent opening the run.
                let _ = lock
                    .set_len(0)
                    .and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()));
                return Ok(lock);
            }
            Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(50)),
            Err(TryLockError::Error(e)) => return Err(Error::write(&path)(e)),
        }
    }
    let holder = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let holder = holder.map_or("another process".into(), |id| format!("process {id}"));
    Err(Error::Config(format!(
        "{} is in use by {holder}; wait for it, or choose another output_dir",
        run.display()
    )))
}

/// Returns the first of `path`, `path-2`, `path-3`, ... that no run has used.
pub fn numbered(path: &Path) -> PathBuf {
    let used = |candidate: &Path| OURS.iter().any(|name| candidate.join(name).exists());
    if !used(path) {
        return path.to_path_buf();
    }
    let name = path.file_name().map_or_else(|| "run".into(), |n| n.to_string_lossy().into_owned());
    (2u32..)
        .map(|i| path.with_file_name(format!("{name}-{i}")))
        .find(|p| !used(p))
        .unwrap_or_else(|| path.into())
}

#[cfg(test)]
mod tests {
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
        assert!(numbered(&path).ends_with("run-2"));
        drop(RunDir::open(&path, Opening::Overwrite).unwrap());
        assert!(!path.join("config.yaml").exists() && path.join("notes.txt").exists());
    }

    #[test]
    fn one_process_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let held = RunDir::open(directory.path(), Opening::Fresh).unwrap();
        let second = RunDir::open(directory.path(), Opening::Resume);
        let holder = format!("in use by process {}", std::process::id());
        assert!(second.unwrap_err().to_string().contains(&holder));
        // One that lets go within two seconds, as a killed process does, is waited for.
        let letting_go = std::thread::spawn(move || {
            sleep(Duration::from_millis(200));
            drop(held);
        });
        RunDir::open(directory.path(), Opening::Resume).unwrap();
        letting_go.join().unwrap();
    }
}
