//! The file of a tokenized data set: magic bytes, the words of all examples, the entries, a JSON header, and a footer
//! with the three sizes and the BLAKE3 hash of everything but the words (each example's id covers its own, and a text has a hash
//! of its own).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::Entry;
use crate::error::{Error, Result};
use crate::files;

/// The first bytes; the digit is the format version.
const MAGIC: &[u8; 8] = b"dpodata1";
/// Three sizes of 8 bytes and a hash.
const FOOTER: usize = 3 * 8 + 32;

/// What is stored beside the examples.
#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    pub files: Vec<String>,
    pub note: String,
}

/// A file being written under a temporary name.
#[derive(Debug)]
pub(super) struct Writer {
    out: BufWriter<files::TemporaryFile>,
    path: PathBuf,
}

impl Writer {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let directory = files::parent(path);
        std::fs::create_dir_all(directory).map_err(Error::write(directory))?;
        let file = files::TemporaryFile::new(directory)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(MAGIC).map_err(Error::write(path))?;
        Ok(Self { out, path: path.to_path_buf() })
    }

    pub(super) fn tokens(&mut self, tokens: &[u32]) -> Result<()> {
        self.out.write_all(bytemuck::cast_slice(tokens)).map_err(Error::write(&self.path))
    }

    /// Writes what follows the words, and gives the file its name.
    pub(super) fn finish(
        self,
        tokens: u64,
        entries: &[Entry],
        files: &[Arc<str>],
        note: &str,
    ) -> Result<PathBuf> {
        let Self { mut out, path } = self;
        let header = serde_json::to_vec(&Header {
            files: files.iter().map(|name| name.to_string()).collect(),
            note: note.into(),
        })
        .map_err(|e| Error::Data(e.to_string()))?;
        let (entries, mut hasher) = (bytemuck::cast_slice::<Entry, u8>(entries), blake3::Hasher::new());
        let sizes = [tokens, entries.len() as u64, header.len() as u64].map(u64::to_le_bytes).concat();
        hasher.update(entries).update(&header).update(&sizes);
        // Entries hold numbers of 8 bytes.
        let padding: &[u8] = if tokens % 2 == 1 { &[0; 4] } else { &[] };
        let mut write = || -> std::io::Result<()> {
            for part in [padding, entries, &header, &sizes, hasher.finalize().as_bytes()] {
                out.write_all(part)?;
            }
            out.flush()?;
            out.get_ref().as_file().sync_all()
        };
        write().map_err(Error::write(&path))?;
        let file = out.into_inner().map_err(|e| Error::write(&path)(e.into_error()))?;
        file.persist(&path)?;
        Ok(path)
    }
}

/// An open file whose header and entries have been checked.
#[derive(Debug)]
pub(super) struct Mapped {
    map: Mmap,
    words: usize,
    entries: std::ops::Range<usize>,
}

impl Mapped {
    pub(super) fn open(path: &Path) -> Result<(Self, Header)> {
        let file = File::open(path).map_err(Error::read(path))?;
        // SAFETY: the file is in the program's own cache, where it is written under another name and never changed.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::read(path))?;
        Self::checked(map).ok_or_else(|| {
            Error::Data(format!("{} is not a whole file of tokenized data; delete it", path.display()))
        })
    }

    fn checked(map: Mmap) -> Option<(Self, Header)> {
        let (body, hash) = map.split_last_chunk::<32>()?;
        let body = body.strip_prefix(MAGIC)?;
        let sizes_at = body.len().checked_sub(FOOTER - 32)?;
        let (body, sizes) = body.split_at(sizes_at);
        let size = |i: usize| -> Option<usize> {
            usize::try_from(u64::from_le_bytes(*sizes.get(8 * i..)?.first_chunk::<8>()?)).ok()
        };
        let (words, entries, header) = (size(0)?, size(1)?, size(2)?);
        let padded = words.checked_add(words % 2)?.checked_mul(4)?;
        let rest = body.get(padded..)?;
        if rest.len() != entries.checked_add(header)? || entries % size_of::<Entry>() != 0 {
            return None;
        }
        let padding = body.get(4 * words..padded)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(rest).update(sizes);
        if hasher.finalize().as_bytes() != hash || padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        let header = serde_json::from_slice(&rest[entries..]).ok()?;
        let first = MAGIC.len() + padded;
        bytemuck::try_cast_slice::<u8, Entry>(map.get(first..first + entries)?).ok()?;
        Some((Self { words, entries: first..first + entries, map }, header))
    }

    pub(super) fn tokens(&self) -> &[u32] {
        bytemuck::try_cast_slice(&self.map[MAGIC.len()..MAGIC.len() + 4 * self.words]).unwrap_or_default()
    }

    pub(super) fn entries(&self) -> &[Entry] {
        bytemuck::try_cast_slice(&self.map[self.entries.clone()]).unwrap_or_default()
    }
}
