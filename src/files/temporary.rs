//! The list of temporary files being written, so that a process that is asked to stop can remove them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{NamedTempFile, TempDir};

use crate::error::{Error, Result};

/// Prefix of temporary names.
pub(super) const TEMPORARY: &str = ".tmp-";

static LISTED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Attempts to empty a directory that other threads still write to.
const TRIES: usize = 100;

fn listed() -> MutexGuard<'static, Vec<PathBuf>> {
    // The list is consistent at any time.
    LISTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls `work` while no signal removes temporary files.
pub(super) fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let _held = listed();
    work()
}

/// A temporary path that stays on the list until this is dropped.
#[derive(Debug)]
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

/// A file under a temporary name, removed on drop and when the process is stopped by a signal.
#[derive(Debug)]
pub struct TemporaryFile {
    file: NamedTempFile,
    _listed: Listed,
}

impl TemporaryFile {
    /// Creates one in a directory.
    ///
    /// # Errors
    /// If `within` is not writable.
    pub fn new(within: &Path) -> Result<Self> {
        let make =
            || tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(within).map_err(Error::write(within));
        let (file, listed) = Listed::made(make, |file| file.path())?;
        Ok(Self { file, _listed: listed })
    }

    /// Its temporary path.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The open file.
    pub fn as_file(&self) -> &File {
        self.file.as_file()
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// If it cannot be renamed; it is then removed.
    pub fn persist(self, path: &Path) -> Result<()> {
        self.file.persist(path).map(drop).map_err(|e| Error::write(path)(e.error))
    }
}

impl Write for TemporaryFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// A directory under a temporary name, removed on drop and when the process is stopped by a signal.
#[derive(Debug)]
pub struct TemporaryDirectory {
    directory: TempDir,
    _listed: Listed,
}

impl TemporaryDirectory {
    /// Creates one in a directory.
    ///
    /// # Errors
    /// If `within` is not writable.
    pub fn new(within: &Path) -> Result<Self> {
        let make =
            || tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(within).map_err(Error::write(within));
        let (directory, listed) = Listed::made(make, |directory| directory.path())?;
        Ok(Self { directory, _listed: listed })
    }

    /// Its temporary path.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// It was renamed: there is nothing to remove.
    pub fn renamed(self) {
        let _ = self.directory.keep();
    }

    /// Renames it. A signal that is removing it at that moment is waited for: removal follows a directory to its new
    /// name, and would take files from it there.
    ///
    /// # Errors
    /// If it cannot be renamed; it is then removed.
    pub fn rename(self, path: &Path) -> Result<()> {
        undisturbed(|| std::fs::rename(self.path(), path)).map_err(Error::write(path))?;
        self.renamed();
        Ok(())
    }

    /// Removes it now.
    ///
    /// # Errors
    /// If a file in it cannot be removed.
    pub fn close(self) -> std::io::Result<()> {
        self.directory.close()
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
    fn no_directory_is_renamed_while_a_signal_removes_it() {
        let place = tempfile::tempdir().unwrap();
        let new = TemporaryDirectory::new(place.path()).unwrap();
        let named = place.path().join("named");
        let removing = listed();
        std::thread::scope(|scope| {
            let renaming = scope.spawn(|| new.rename(&named));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!named.exists());
            drop(removing);
            renaming.join().unwrap().unwrap();
        });
        assert!(named.exists());
    }

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
