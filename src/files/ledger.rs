//! A file of JSON lines that grows: every line is on the disk before work goes on, so that a run that is stopped continues.

use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{parent, sync_directory};
use crate::error::{Error, Result};

/// The longest line that is read; a longer one is no line of ours.
const LONGEST_LINE: u64 = 64 << 20;

/// A file of JSON lines, locked while it is open.
#[derive(Debug)]
pub struct Ledger<T> {
    file: File,
    path: PathBuf,
    /// Bytes of whole lines.
    len: u64,
    lines: PhantomData<fn(T)>,
}

impl<T: Serialize + DeserializeOwned> Ledger<T> {
    /// Opens or creates a file and returns its entries. A last line that was not written to its end is removed.
    ///
    /// # Errors
    /// [`Error::Config`] if another process has it open; [`Error::Record`] with the line that is not an entry; or if the file
    /// cannot be read or written.
    pub fn open(path: &Path) -> Result<(Self, Vec<T>)> {
        let directory = parent(path);
        std::fs::create_dir_all(directory).map_err(Error::write(directory))?;
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(Error::write(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Config(format!(
                    "{} is in use by another process; wait until it ends, or name another output",
                    path.display()
                )));
            }
            // A file system without locks.
            Err(TryLockError::Error(_)) => {}
        }
        let (entries, len) = read(&file, path)?;
        file.set_len(len).and_then(|()| file.seek(SeekFrom::Start(len))).map_err(Error::write(path))?;
        sync_directory(directory)?;
        Ok((Self { file, path: path.to_path_buf(), len, lines: PhantomData }, entries))
    }

    /// Adds an entry, which is on the disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written; the file then ends as before.
    pub fn push(&mut self, entry: &T) -> Result<()> {
        let mut line = serde_json::to_vec(entry)
            .map_err(|e| Error::Data(format!("{}: an entry cannot be written: {e}", self.path.display())))?;
        line.push(b'\n');
        match self.file.write_all(&line).and_then(|()| self.file.sync_data()) {
            Ok(()) => {
                self.len += line.len() as u64;
                Ok(())
            }
            Err(error) => {
                // If this fails as well, the next run removes what is left of the line.
                let _ = self.file.set_len(self.len).and_then(|()| self.file.seek(SeekFrom::Start(self.len)));
                Err(Error::write(&self.path)(error))
            }
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns the entries of a file and the bytes of its whole lines.
fn read<T: DeserializeOwned>(file: &File, path: &Path) -> Result<(Vec<T>, u64)> {
    let (mut entries, mut len, mut number) = (Vec::new(), 0, 0);
    let mut reader = BufReader::new(file);
    loop {
        let mut line = Vec::new();
        let limited = &mut std::io::Read::take(&mut reader, LONGEST_LINE);
        let found = limited.read_until(b'\n', &mut line).map_err(Error::read(path))?;
        number += 1;
        let wrong =
            |message: String| Error::Record { file: path.display().to_string(), line: number, message };
        if found as u64 == LONGEST_LINE {
            return Err(wrong(format!("the line has more than {LONGEST_LINE} bytes; name another output")));
        }
        if line.last() != Some(&b'\n') {
            return Ok((entries, len));
        }
        entries.push(serde_json::from_slice(&line).map_err(|e| {
            wrong(format!("this is not a line of such a file ({e}); remove the line, or name another output"))
        })?);
        len += found as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kept_and_a_torn_one_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/ledger.jsonl");
        let (mut ledger, entries) = Ledger::<u32>::open(&path).unwrap();
        assert!(entries.is_empty());
        ledger.push(&1).unwrap();
        ledger.push(&2).unwrap();
        let busy = Ledger::<u32>::open(&path).unwrap_err();
        assert!(busy.to_string().contains("another process"), "{busy}");
        drop(ledger);
        std::fs::write(&path, "1\n2\n3").unwrap();
        let (mut ledger, entries) = Ledger::<u32>::open(&path).unwrap();
        assert_eq!(entries, [1, 2]);
        ledger.push(&4).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n4\n");
    }

    #[test]
    fn a_broken_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        std::fs::write(&path, "1\n{\n3\n").unwrap();
        let error = Ledger::<u32>::open(&path).unwrap_err().to_string();
        assert!(error.contains("ledger.jsonl:2:") && error.contains("remove the line"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n{\n3\n", "nothing is lost");
    }

    #[test]
    fn a_full_disk_is_an_error() {
        if !Path::new("/dev/full").exists() {
            return;
        }
        let mut ledger: Ledger<u32> = Ledger {
            file: File::options().write(true).open("/dev/full").unwrap(),
            path: "/dev/full".into(),
            len: 0,
            lines: PhantomData,
        };
        assert!(ledger.push(&1).is_err());
    }
}
