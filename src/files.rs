//! Files and directories appear whole or not at all: they are written under a temporary name, synced and renamed.

mod cache;
mod draining;
mod guard;
mod ledger;
mod memo;
mod remembered;
mod temporary;
mod text;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

pub use cache::CacheChoice;
pub use draining::Draining;
pub use guard::{Guard, check_earlier, check_parts};
pub use ledger::Ledger;
pub use memo::Memo;
pub use remembered::{FileStamp, content_hash, remembered};
pub use temporary::{TemporaryDirectory, TemporaryFile, remove_temporaries};
pub use text::{read_text, without_mark};

use crate::error::{Error, Result};
use temporary::{TEMPORARY, undisturbed};

/// Writes a file through `fill`, under a temporary name in the same directory until it is complete. What is no file
/// (`/dev/null`, a named pipe) and what this process has open (`/dev/stdout`, also where it leads to a file) is written to as it is:
/// a rename would put a file in its place. A closed pipe (`--output /dev/stdout | head`) is not an error.
///
/// # Errors
/// If the directory is not writable or the disk is full; an existing file is then unchanged.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut (dyn Write + Send)) -> std::io::Result<()>,
) -> Result<()> {
    if !is_special(path) {
        return write_checked(path, fill, |_| Ok(()));
    }
    let write = || -> std::io::Result<()> {
        // At the end of a file: what is before was not written by this command.
        let mut buffered = BufWriter::new(File::options().append(true).open(path)?);
        fill(&mut buffered)?;
        buffered.flush()
    };
    match write() {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::write(path)),
    }
}

/// Whether something is there that is neither a file nor a directory, or is open in this process.
fn is_special(path: &Path) -> bool {
    let name = path.to_string_lossy();
    let is_open = || {
        ["/dev/stdin", "/dev/stdout", "/dev/stderr"].contains(&&*name)
            || name.starts_with("/dev/fd/")
            || name.starts_with("/proc/") && parent(path).ends_with("fd")
    };
    std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir() || is_open())
}

/// The file that a path leads to: a rename to a link would replace the link.
fn behind_links(path: &Path) -> PathBuf {
    let mut path = path.to_path_buf();
    // As many links as Linux follows.
    for _ in 0..40 {
        let Ok(next) = std::fs::read_link(&path) else { break };
        path = parent(&path).join(next);
    }
    path
}

/// As [`write_atomically`]; `check` sees the complete file under its temporary name, and a file that it refuses is removed.
///
/// # Errors
/// As [`write_atomically`], and the error of `check`; or if `path` is a device or a pipe, which cannot be checked.
pub fn write_checked(
    path: &Path,
    fill: impl FnOnce(&mut (dyn Write + Send)) -> std::io::Result<()>,
    check: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    if is_special(path) {
        return Err(Error::Config(format!(
            "{} is a device or a pipe, and the output is read again before it gets its name; name a file",
            path.display()
        )));
    }
    let path = &behind_links(path);
    let directory = parent(path);
    std::fs::create_dir_all(directory).map_err(Error::write(directory))?;
    let file = TemporaryFile::new(directory)?;
    let write = || -> std::io::Result<()> {
        let mut buffered = BufWriter::with_capacity(1 << 20, Draining::new(file.as_file()));
        fill(&mut buffered)?;
        buffered.flush()?;
        buffered.get_mut().finish()?;
        readable_by_others(file.as_file())?;
        file.as_file().sync_all()
    };
    write().map_err(Error::write(path))?;
    check(file.path())?;
    file.persist(path)?;
    sync_directory(directory)
}

/// As [`write_atomically`], from bytes in memory.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |out| out.write_all(bytes))
}

/// Makes a directory through `fill`, which gets a temporary one beside it and syncs the files that it writes. With
/// `replace` an existing directory is replaced as a whole; without it, only an empty one is.
///
/// # Errors
/// The error of `fill`; or if the directory is not writable, or exists and is not empty. An existing one is then unchanged.
pub fn write_directory<T>(path: &Path, replace: bool, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    // The directory itself, not a link to it: a rename would replace the link.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    if path.exists() && !path.is_dir() {
        return Err(Error::Config(format!("{} exists and is not a directory", path.display())));
    }
    let within = parent(&path);
    std::fs::create_dir_all(within).map_err(Error::write(within))?;
    let new = TemporaryDirectory::new(within)?;
    let made = fill(new.path())?;
    sync_directory(new.path())?;
    open_to_others(new.path()).map_err(Error::write(new.path()))?;
    let old = if replace && path.exists() { Some(TemporaryDirectory::new(within)?) } else { None };
    let aside = old.as_ref().map(|old| old.path().join("replaced"));
    // A signal between the two renames would remove both directories.
    let swapped = undisturbed(|| swap(new.path(), &path, aside.as_deref()));
    if swapped.is_err() && aside.is_some_and(|aside| aside.exists()) {
        // It could not be renamed back: it is all that is left of the old one.
        old.into_iter().for_each(TemporaryDirectory::renamed);
    }
    swapped.map_err(Error::write(&path))?;
    new.renamed();
    sync_directory(within)?;
    Ok(made)
}

/// Renames `new` to `path`, and what is there to `aside`; if that fails, what was there is renamed back.
fn swap(new: &Path, path: &Path, aside: Option<&Path>) -> std::io::Result<()> {
    if let Some(aside) = aside {
        std::fs::rename(path, aside)?;
    }
    std::fs::rename(new, path).or_else(|error| {
        if let Some(aside) = aside {
            std::fs::rename(aside, path)?;
        }
        Err(error)
    })
}

/// Removes a directory so that it is never seen half removed: it is renamed first.
///
/// # Errors
/// If its parent is not writable.
pub fn remove_directory(path: &Path) -> Result<()> {
    let aside = TemporaryDirectory::new(parent(path))?;
    std::fs::rename(path, aside.path().join("removed")).map_err(Error::write(path))?;
    aside.close().map_err(Error::write(path))
}

/// Removes temporary files that a killed process left. Only for directories that no other process is writing to.
///
/// # Errors
/// If a file cannot be removed.
pub fn sweep(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            let path = entry.path();
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(Error::write(&path))?;
        }
    }
    Ok(())
}

/// The directory for files that can be made again: `$XDG_CACHE_HOME/dpo-lora`, else `~/.cache/dpo-lora`.
pub fn cache_directory() -> Option<PathBuf> {
    // The specification says to ignore relative paths.
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("dpo-lora"))
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

/// Bytes of a file, or of all files in a directory; what cannot be read counts as 0.
pub fn size(path: &Path) -> u64 {
    let Ok(found) = std::fs::symlink_metadata(path) else { return 0 };
    if !found.is_dir() {
        return found.len();
    }
    std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum()
}

/// A path as a word of a command that can be copied into a shell.
pub fn shell_word(path: &Path) -> String {
    let mut text = path.display().to_string();
    // A command would take it for a flag; `-` alone is standard input.
    if text.starts_with('-') && text != "-" {
        text.insert_str(0, "./");
    }
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The directory that a file is in; `.` for a bare name.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Temporary files are private; results get the usual permissions.
#[cfg(unix)]
fn readable_by_others(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(unix)]
fn open_to_others(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn open_to_others(_: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn readable_by_others(_: &File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_command_is_no_flag_and_no_syntax() {
        let word = |path: &str| shell_word(Path::new(path));
        assert_eq!(word("runs/a"), "runs/a");
        assert_eq!(word("-out/adapter"), "./-out/adapter");
        assert_eq!(word("--out put"), "'./--out put'");
        assert_eq!([word("-"), word(""), word("it's")], ["-", "''", "'it'\\''s'"]);
    }

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

    #[test]
    #[cfg(unix)]
    fn what_is_no_file_is_written_to_and_stays_what_it_is() {
        use std::io::Read;
        use std::os::unix::fs::{FileTypeExt, symlink};
        let place = tempfile::tempdir().unwrap();
        let pipe = place.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let link = place.path().join("link");
        symlink(&pipe, &link).unwrap();
        for path in [&pipe, &link] {
            let from = pipe.clone();
            let read = std::thread::spawn(move || {
                let mut text = String::new();
                File::open(from).unwrap().read_to_string(&mut text).map(|_| text)
            });
            write_bytes(path, b"through").unwrap();
            assert_eq!(read.join().unwrap().unwrap(), "through");
        }
        assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo() && link.is_symlink());
        let checked = write_checked(&pipe, |_| Ok(()), |_| Ok(())).unwrap_err();
        assert!(checked.exit_code() == 2 && checked.to_string().contains("name a file"), "{checked}");
        let replaced = write_directory(&pipe, true, |_| Ok(())).unwrap_err();
        assert!(replaced.to_string().contains("is not a directory"), "{replaced}");
        assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
        // A link to a file stays a link.
        let (file, named) = (place.path().join("file"), place.path().join("named"));
        write_bytes(&file, b"old").unwrap();
        symlink(&file, &named).unwrap();
        write_bytes(&named, b"new").unwrap();
        assert!(named.is_symlink() && std::fs::read(&file).unwrap() == b"new");
        // Also where the file is not there yet.
        let later = place.path().join("later");
        symlink("file-of-later", &later).unwrap();
        write_bytes(&later, b"made").unwrap();
        assert!(later.is_symlink() && std::fs::read(place.path().join("file-of-later")).unwrap() == b"made");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_that_is_open_as_output_is_added_to() {
        use std::os::fd::AsRawFd;
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("of the shell");
        std::fs::write(&path, "before\n").unwrap();
        let open = File::options().append(true).open(&path).unwrap();
        for name in ["/dev/fd", "/proc/self/fd"] {
            write_bytes(&Path::new(name).join(open.as_raw_fd().to_string()), b"ours\n").unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nours\nours\n");
    }

    #[test]
    fn what_the_check_refuses_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let write =
            |check: fn(&Path) -> Result<()>| write_checked(&path, |out| out.write_all(b"whole"), check);
        let refused = write(|there| {
            assert_eq!(std::fs::read(there).unwrap(), b"whole");
            Err(Error::Data("no".into()))
        });
        assert_eq!(refused.unwrap_err().to_string(), "no");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
        write(|_| Ok(())).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn a_directory_appears_whole_replaces_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");
        let make = |replace, name: &'static str| {
            write_directory(&path, replace, |inside| write_bytes(&inside.join(name), b"x"))
        };
        let names = |path: &Path| {
            let mut names: Vec<_> = std::fs::read_dir(path)
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        std::fs::create_dir_all(&path).unwrap();
        make(false, "first").unwrap();
        assert_eq!(names(&path), ["first"]);
        assert!(make(false, "second").is_err());
        assert!(write_directory(&path, true, |_| Err::<(), _>(Error::Data("no".into()))).is_err());
        assert_eq!(names(&path), ["first"]);
        make(true, "second").unwrap();
        assert_eq!(names(&path), ["second"]);
        assert_eq!(names(&place.path().join("a")), ["b"], "nothing temporary is left");
    }
}
