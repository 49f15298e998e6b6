//! Files of a directory as bytes, for machines that do not see it.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

/// Packs files of a directory: for each its path in it and its content, behind their lengths.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn packed(directory: &Path, names: &[String]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for name in names {
        let path = directory.join(name);
        let content = std::fs::read(&path).map_err(Error::read(&path))?;
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend((content.len() as u64).to_le_bytes());
        bytes.extend(content);
    }
    Ok(bytes)
}

/// Writes the files to a directory, except those that it has already.
///
/// # Errors
/// If the bytes are not those of files, or a file cannot be written.
pub(super) fn unpack(bytes: &[u8], directory: &Path) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let damaged = || Error::Ranks("the files that rank 0 sent are damaged".into());
        let (name, content, behind) = part(rest).ok_or_else(damaged)?;
        // A file, or one in a directory.
        if name.starts_with(['/', '.']) || name.contains("..") || name.contains('\\') {
            return Err(damaged());
        }
        let path = directory.join(name);
        if std::fs::read(&path).ok().as_deref() != Some(content) {
            let parent = files::parent(&path);
            std::fs::create_dir_all(parent).map_err(Error::write(parent))?;
            files::write_bytes(&path, content)?;
        }
        rest = behind;
    }
    Ok(())
}

/// A name, its content, and what is behind.
fn part(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let (name, rest) = sized(bytes)?;
    let (content, rest) = sized(rest)?;
    Some((std::str::from_utf8(name).ok()?, content, rest))
}

fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_out_as_they_were_and_none_beside_the_directory() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(from.path().join("a")).unwrap();
        std::fs::write(from.path().join("a/b"), [1, 2, 3]).unwrap();
        std::fs::write(from.path().join("c"), []).unwrap();
        let bytes = packed(from.path(), &["a/b".into(), "c".into()]).unwrap();
        unpack(&bytes, to.path()).unwrap();
        assert_eq!(std::fs::read(to.path().join("a/b")).unwrap(), [1, 2, 3]);
        assert!(std::fs::read(to.path().join("c")).unwrap().is_empty());
        for cut in [1, 8, bytes.len() - 1] {
            assert!(unpack(&bytes[..cut], to.path()).is_err());
        }
        let mut outside = 4u64.to_le_bytes().to_vec();
        outside.extend(b"../x");
        outside.extend(0u64.to_le_bytes());
        assert!(unpack(&outside, to.path()).is_err());
    }
}
