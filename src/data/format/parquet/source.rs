//! The bytes of a Parquet file: a file or memory, never read beyond its end.

use std::fs::File;
use std::io::Read;

use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::{Buf, Bytes};

/// Where the bytes are.
pub(in super::super) enum Source {
    /// A regular file and its length.
    File(File, u64),
    Memory(Bytes),
}

impl Source {
    /// Bytes `start..start + length`, if the file has them.
    fn check(&self, start: u64, length: u64) -> Result<()> {
        match start.checked_add(length) {
            Some(end) if end <= self.len() => Ok(()),
            Some(_) | None => Err(ParquetError::EOF(format!(
                "bytes {start} to {} are behind its end, at {}",
                start.saturating_add(length),
                self.len()
            ))),
        }
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        match self {
            Self::File(_, length) => *length,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }
}

impl ChunkReader for Source {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        self.check(start, 0)?;
        Ok(match self {
            Self::File(file, _) => Box::new(file.get_read(start)?),
            Self::Memory(bytes) => Box::new(bytes.slice(usize::try_from(start)?..).reader()),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.check(start, length as u64)?;
        match self {
            Self::File(file, _) => file.get_bytes(start, length),
            Self::Memory(bytes) => {
                let start = usize::try_from(start)?;
                Ok(bytes.slice(start..start + length))
            }
        }
    }
}
