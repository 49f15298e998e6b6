//! A file that grows by complete records. Records that a full disk refused are kept and written later.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes of records that are kept for another attempt when they could not be written.
const MOST_PENDING: usize = 4 << 20;

/// An append-only file. A record that was written in part (a full disk) is removed before the next one, so a reader never
/// sees half a record in the middle.
pub(super) struct AppendFile {
    file: File,
    path: PathBuf,
    len: u64,
    torn: bool,
    pending: Vec<u8>,
}

impl AppendFile {
    /// Opens `path` and keeps its first `len` bytes (0: a new or emptied file).
    pub(super) fn open(path: &Path, len: u64) -> Result<Self> {
        let open = || {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            file.set_len(len)?;
            Ok(file)
        };
        let file = open().map_err(Error::write(path))?;
        Ok(Self { file, path: path.to_path_buf(), len, torn: true, pending: Vec::new() })
    }

    /// Opens `path`, which must not exist yet; `Ok(None)` if it does.
    pub(super) fn create_new(path: &Path) -> Result<Option<Self>> {
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => {
                Ok(Some(Self { file, path: path.to_path_buf(), len: 0, torn: false, pending: Vec::new() }))
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(Error::write(path)(error)),
        }
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds `record` at the end, after those that could not be written before.
    pub(super) fn append(&mut self, record: &[u8]) -> Result<()> {
        if self.pending.len() + record.len() <= MOST_PENDING {
            self.pending.extend(record);
        }
        self.flush().map_err(Error::write(&self.path))
    }

    /// Makes the added records survive a power cut.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.flush().and_then(|()| self.file.sync_data()).map_err(Error::write(&self.path))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let written = if pending.is_empty() { Ok(()) } else { self.write(&pending) };
        if written.is_err() {
            self.pending = pending;
            // Remove the half record now, for readers; if that fails too, the next attempt removes it.
            let _ = self.file.set_len(self.len);
        }
        written
    }

    fn write(&mut self, record: &[u8]) -> std::io::Result<()> {
        if self.torn {
            self.file.set_len(self.len)?;
            self.file.seek(SeekFrom::Start(self.len))?;
        }
        self.torn = true;
        self.file.write_all(record)?;
        self.len += record.len() as u64;
        self.torn = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_behind_what_is_kept_and_takes_back_a_torn_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "one\ntw").unwrap();
        let mut log = AppendFile::open(&path, 4).unwrap();
        log.append(b"two\n").unwrap();
        // as a write that failed half-way leaves it
        log.file.write_all(b"thr").unwrap();
        log.torn = true;
        log.append(b"four\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nfour\n");
    }

    #[test]
    fn what_a_full_disk_refused_is_written_later_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = AppendFile::open(&path, 0).unwrap();
        log.append(b"one\n").unwrap();
        let whole =
            std::mem::replace(&mut log.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        assert!(log.append(b"two\n").is_err() && log.append(b"three\n").is_err() && log.sync().is_err());
        log.file = whole;
        log.append(b"four\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\nfour\n");
    }

    #[test]
    fn new_means_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(AppendFile::create_new(&path).unwrap().is_some());
        assert!(AppendFile::create_new(&path).unwrap().is_none());
        assert!(AppendFile::create_new(&dir.path().join("none/log")).is_err());
    }
}
