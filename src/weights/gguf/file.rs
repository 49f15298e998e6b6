//! A mapped GGUF file.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::header::{GgufTensor, Header};
use super::metadata::Metadata;
use crate::error::{Error, Result};
use crate::files::FileStamp;
use crate::weights::FrozenWeight;

/// A GGUF file: its metadata, its tensors, and their bytes in the mapped file.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: Arc<Mmap>,
    header: Header,
    stamp: FileStamp,
}

impl GgufFile {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a complete GGUF file of version 2 or 3.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::read(path))?;
        let stamp = FileStamp::of(path, &file).map_err(Error::read(path))?;
        // SAFETY: the map is read-only; as with safetensors, tools replace models by rename, which leaves the map whole.
        let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(Error::read(path))?);
        let header = Header::parse(&map)
            .map_err(|why| Error::Weights(format!("{} is not a whole GGUF file: {why}", path.display())))?;
        Ok(Self { path: path.to_path_buf(), map, header, stamp })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file as it was when it was opened.
    pub fn stamp(&self) -> &FileStamp {
        &self.stamp
    }

    /// Version of the container.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// The metadata.
    pub fn metadata(&self) -> Metadata<'_> {
        self.header.metadata(&self.map)
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = &GgufTensor> {
        self.header.tensors.values()
    }

    /// The tensor with this name, if there is one.
    pub fn find(&self, name: &str) -> Option<&GgufTensor> {
        self.header.tensors.get(name)
    }

    /// A tensor.
    ///
    /// # Errors
    /// If there is no tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<&GgufTensor> {
        self.find(name).ok_or_else(|| {
            Error::Weights(format!("{} has no tensor {name}; is it complete?", self.path.display()))
        })
    }

    /// A tensor's bytes as stored.
    ///
    /// # Errors
    /// If there is no tensor of this name.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let tensor = self.tensor(name)?;
        // `Header::place` checked the range against this map.
        Ok(&self.map[tensor.start..tensor.start + tensor.bytes])
    }

    /// A tensor as a frozen weight: mapped, and quantised if it is in the file.
    ///
    /// # Errors
    /// If there is no tensor of this name, or its type is not supported for computing.
    pub fn weight(&self, name: &str) -> Result<FrozenWeight> {
        let GgufTensor { kind, shape, start, bytes, .. } = self.tensor(name)?;
        match (kind.plain(), kind.blocks()) {
            (Some(dtype), _) => FrozenWeight::from_file(&self.map, *start, *bytes, dtype, shape),
            (None, Some(kind)) => FrozenWeight::from_blocks_of_file(&self.map, *start, *bytes, kind, shape),
            (None, None) => Err(Error::Weights(format!(
                "tensor {name} in {} is {kind}; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K are \
                 supported",
                self.path.display()
            ))),
        }
    }

    /// Rows of a tensor (of all its dimensions but the last), dequantised, row-major.
    ///
    /// # Errors
    /// As [`GgufFile::weight`], or if the rows are out of bounds.
    pub fn rows_to_f32(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        let weight = self.weight(name)?;
        let columns = weight.shape().last().copied().unwrap_or(1);
        let all = weight.elements().len() / columns.max(1);
        if rows.start > rows.end || rows.end > all {
            return Err(Error::Weights(format!("rows {rows:?} of {name}, which has {all}")));
        }
        Ok(weight.elements().slice(rows.start * columns..rows.end * columns).to_f32())
    }

    /// A whole tensor, dequantised, row-major.
    ///
    /// # Errors
    /// As [`GgufFile::weight`].
    pub fn to_f32(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.weight(name)?.elements().to_f32())
    }
}
