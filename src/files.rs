//! Files appear whole or not at all: written beside, synced, renamed, the directory synced.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Writes a file through `fill`, under a temporary name in the same directory until it is whole.
///
/// # Errors
/// If the directory cannot be written or the disk is full; the file is then as it was before.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let directory = parent(path);
    std::fs::create_dir_all(directory).map_err(Error::write(directory))?;
    let mut file = tempfile::Builder::new()
        .prefix(".tmp-")
        .tempfile_in(directory)
        .map_err(Error::write(directory))?;
    let write = || -> std::io::Result<()> {
        let mut buffered = BufWriter::with_capacity(1 << 20, &mut file);
        fill(&mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        readable_by_others(file.as_file())?;
        file.as_file().sync_all()
    };
    write().map_err(Error::write(path))?;
    file.persist(path).map_err(|e| Error::write(path)(e.error))?;
    sync_directory(directory)
}

/// As [`write_atomically`], from bytes at hand.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |out| out.write_all(bytes))
}

/// Makes the directory's entries (a rename, a new file) survive a power cut.
///
/// # Errors
/// If the directory cannot be opened.
pub fn sync_directory(directory: &Path) -> Result<()> {
    // Windows cannot open directories, and does not need to.
    if cfg!(unix) {
        File::open(directory).and_then(|d| d.sync_all()).map_err(Error::write(directory))?;
    }
    Ok(())
}

/// The directory a file is in; `.` for a bare name.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Temporary files are private; results are for everyone the directory is for.
#[cfg(unix)]
fn readable_by_others(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable_by_others(_: &File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/file");
        write_bytes(&path, b"old").unwrap();
        let failed = write_atomically(&path, |out| {
            out.write_all(b"half of the new")?;
            Err(std::io::Error::other("disk full"))
        });
        assert!(failed.unwrap_err().to_string().contains("disk full"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
