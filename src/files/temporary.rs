//! The list of temporary files being written, so that a process that is asked to stop can remove them.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;

static LISTED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Attempts to empty a directory that other threads still write to.
const TRIES: usize = 100;

fn listed() -> MutexGuard<'static, Vec<PathBuf>> {
    // The list is consistent at any time.
    LISTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary path that stays on the list until this is dropped.
pub(super) struct Listed(PathBuf);

impl Listed {
    /// Makes a temporary file or directory and puts it on the list. No other thread sees the one without the other.
    pub fn made<T>(make: impl FnOnce() -> Result<T>, path: impl FnOnce(&T) -> &Path) -> Result<(T, Self)> {
        let mut all = listed();
        let made = make()?;
        let path = path(&made);
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        all.push(path.clone());
        Ok((made, Self(path)))
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut all = listed();
        if let Some(at) = all.iter().rposition(|path| *path == self.0) {
            all.swap_remove(at);
        }
    }
}

/// Removes everything that is being written. For a process that exits at once: threads that are still writing will
/// fail, and none will start a new file.
pub fn remove_temporaries() {
    let all = listed();
    remove(&all);
    std::mem::forget(all);
}

fn remove(paths: &[PathBuf]) {
    for path in paths {
        // A thread may create the next file while the last ones are being removed.
        let gone = |_| {
            let _ = std::fs::remove_file(path).or_else(|_| std::fs::remove_dir_all(path));
            !path.exists()
        };
        let _ = (0..TRIES).any(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_removed_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for name in ["file", "kept", "done"] {
            std::fs::write(at(name), "x").unwrap();
        }
        std::fs::create_dir(at("directory")).unwrap();
        std::fs::write(at("directory/inside"), "x").unwrap();
        let list = |name: &str| Listed::made(|| Ok(at(name)), |path| path).unwrap().1;
        let _listed = ["file", "directory", "never made"].map(list);
        drop(list("done"));
        // Only this test's: other tests write in parallel.
        let ours =
            || listed().iter().filter(|path| path.starts_with(place.path())).cloned().collect::<Vec<_>>();
        assert_eq!(ours().len(), 3);
        remove(&ours());
        assert!(!at("file").exists() && !at("directory").exists());
        assert!(at("kept").exists() && at("done").exists());
    }
}
