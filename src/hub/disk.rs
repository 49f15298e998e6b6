//! Files and links of a cache that is shared with other programs.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::path::Listing;
use crate::error::{Error, Result};

/// Directories deeper than this are ignored: a loop of links would never end.
pub(super) const MAX_DEPTH: usize = 16;

/// Adds the files below `directory`, named relative to the start of the walk.
pub(super) fn walk(directory: &Path, prefix: &str, depth: usize, found: &mut Listing) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (path, name) = (entry.path(), format!("{prefix}{name}"));
        if path.is_file() {
            found.insert(name);
        } else if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, &format!("{name}/"), depth - 1, found);
        }
    }
}

/// Creates the parent directory of `path`.
pub(super) fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(Error::write(parent))
}

/// [`write_with`] these bytes.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Writes a temporary file beside `path`, syncs it and renames it. Other users may share the cache, so the file gets the
/// mode of a new file instead of a temporary one's 0600.
pub(super) fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    make_parent(path)?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let create = || -> io::Result<NamedTempFile> {
        let mut temporary = builder.tempfile_in(path.parent().unwrap_or(path))?;
        fill(temporary.as_file_mut())?;
        temporary.as_file().sync_all()?;
        Ok(temporary)
    };
    create().map_err(Error::write(path))?.persist(path).map(|_| ()).map_err(|e| Error::write(path)(e.error))
}

#[cfg(unix)]
pub(super) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
pub(super) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
pub(super) fn symlink(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
