//! The header: the metadata and the location of each tensor.

use std::collections::BTreeMap;

use super::cursor::{Cursor, Parsed};
use super::kind::GgmlType;
use super::metadata::{self, Metadata, Place};
use crate::weights::SafetensorsSource;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufTensor {
    /// Its name.
    pub name: String,
    /// Its storage type.
    pub kind: GgmlType,
    /// Its shape, outermost dimension first: ggml's `ne`, reversed.
    pub shape: Vec<usize>,
    /// Offset of its bytes in the file.
    pub start: usize,
    /// Number of its bytes.
    pub bytes: usize,
}

/// A header that was checked against the bytes it came from.
#[derive(Clone, Debug)]
pub struct Header {
    /// Version of the container.
    pub version: u32,
    metadata: BTreeMap<String, Place>,
    /// By name.
    pub(super) tensors: BTreeMap<String, GgufTensor>,
}

/// Limit of tensors and keys of one file: a hundred times what the largest models have, so that a file of empty
/// entries cannot fill the memory.
const MOST_ENTRIES: usize = 1 << 17;
const DEFAULT_ALIGNMENT: usize = 32;
/// `GGML_MAX_DIMS`.
const MOST_DIMENSIONS: usize = 4;

impl Header {
    /// Reads the header of a whole file.
    ///
    /// # Errors
    /// What is wrong, as a clause without the file's name.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut cursor = Cursor::new(bytes, 0);
        if SafetensorsSource::is_pointer(bytes) {
            return Err("it is a Git LFS pointer; fetch the file with git lfs pull".into());
        }
        if cursor.take(4).ok() != Some(b"GGUF") {
            return Err("it does not begin with GGUF".into());
        }
        let version = cursor.u32()?;
        match version {
            2 | 3 => {}
            _ if matches!(version.swap_bytes(), 1..=3) => {
                return Err("it is big-endian; convert the model for little-endian machines".into());
            }
            _ => {
                return Err(format!(
                    "its version is {version}, but 2 and 3 are read; convert the model again"
                ));
            }
        }
        // A tensor: name, dimensions, one of them, type, offset. A key: name, type, value.
        let tensors = entries(&mut cursor, "tensors", 8 + 4 + 8 + 4 + 8)?;
        let keys = entries(&mut cursor, "keys of metadata", 8 + 4 + 1)?;
        let mut header = Self { version, metadata: BTreeMap::new(), tensors: BTreeMap::new() };
        for _ in 0..keys {
            let key = cursor.text()?;
            let kind = cursor.u32()?;
            let place =
                metadata::check(&mut cursor, kind, 0).map_err(|why| format!("key {key:.80}: {why}"))?;
            if header.metadata.insert(key.into(), place).is_some() {
                return Err(format!("the key {key:.80} occurs twice"));
            }
        }
        let alignment = header.alignment(bytes)?;
        let infos = (0..tensors).map(|_| info(&mut cursor, alignment)).collect::<Parsed<Vec<_>>>()?;
        let data = cursor.at().checked_next_multiple_of(alignment).ok_or("its alignment overflows")?;
        header.place(infos, data, bytes.len())?;
        Ok(header)
    }

    /// The metadata; `bytes` are those that [`Header::parse`] read.
    pub fn metadata<'a>(&'a self, bytes: &'a [u8]) -> Metadata<'a> {
        Metadata::new(&self.metadata, bytes)
    }

    fn alignment(&self, bytes: &[u8]) -> Parsed<usize> {
        let alignment = self.metadata(bytes).integer("general.alignment").map_err(|e| e.to_string())?;
        let alignment = alignment.unwrap_or(DEFAULT_ALIGNMENT as u64);
        let usable = usize::try_from(alignment).ok().filter(|a| a.is_power_of_two() && *a <= 1 << 30);
        usable.ok_or_else(|| {
            format!("general.alignment is {alignment}, which is not a power of two up to 2^30")
        })
    }

    /// Reads the tensors, whose offsets count from `data`; they must lie in the file and must not overlap.
    fn place(&mut self, infos: Vec<GgufTensor>, data: usize, size: usize) -> Parsed<()> {
        let mut taken = Vec::with_capacity(infos.len());
        for mut tensor in infos {
            let end = tensor.start.checked_add(data).and_then(|start| start.checked_add(tensor.bytes));
            let Some(end) = end.filter(|end| *end <= size) else {
                return Err(format!(
                    "tensor {:.80} of {} bytes at {} reaches beyond its end at {size}; is it whole? download or copy it again",
                    tensor.name, tensor.bytes, tensor.start
                ));
            };
            tensor.start += data;
            taken.push((tensor.start, end));
            if let Some(twice) = self.tensors.insert(tensor.name.clone(), tensor) {
                return Err(format!("the tensor {:.80} occurs twice", twice.name));
            }
        }
        taken.sort_unstable();
        match taken.windows(2).find(|pair| pair[1].0 < pair[0].1) {
            Some(pair) => Err(format!("two tensors share its bytes from {}", pair[1].0)),
            None => Ok(()),
        }
    }
}

fn entries(cursor: &mut Cursor, what: &str, size: usize) -> Parsed<usize> {
    match cursor.count(what, size)? {
        count if count <= MOST_ENTRIES => Ok(count),
        count => Err(format!("it claims {count} {what}; {MOST_ENTRIES} at most are read")),
    }
}

/// A tensor's entry; `start` is the beginning of the data.
fn info(cursor: &mut Cursor, alignment: usize) -> Parsed<GgufTensor> {
    let name = cursor.text()?;
    let wrong = |why: String| format!("tensor {name:.80}: {why}");
    let dimensions = cursor.u32()? as usize;
    if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
        return Err(wrong(format!("it has {dimensions} dimensions; 1 to {MOST_DIMENSIONS} are allowed")));
    }
    let sizes = (0..dimensions).map(|_| cursor.u64()).collect::<Parsed<Vec<u64>>>()?;
    let (id, offset) = (cursor.u32()?, cursor.u64()?);
    let kind = GgmlType::by_id(id).ok_or_else(|| wrong(format!("its type {id} is unknown")))?;
    let mut shape: Vec<usize> = sizes.iter().filter_map(|size| usize::try_from(*size).ok()).collect();
    shape.reverse();
    let overflow = || wrong(format!("its shape {sizes:?} is impossible"));
    if shape.len() != dimensions || shape.contains(&0) {
        return Err(overflow());
    }
    // 2⁵⁶ numbers: the number of their bytes fits any type.
    let numbers = shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size).filter(|n| *n <= 1 << 56));
    let (numbers, columns) = (numbers.ok_or_else(overflow)?, shape[dimensions - 1]);
    let whole = || format!("its rows of {columns} numbers are not whole blocks of {} ({kind})", kind.block());
    let row = kind.bytes(columns).ok_or_else(|| wrong(whole()))?;
    let bytes = numbers / columns * row;
    let start = usize::try_from(offset).ok().filter(|start| start.is_multiple_of(alignment));
    let start = start.ok_or_else(|| wrong(format!("its offset {offset} is not aligned to {alignment}")))?;
    Ok(GgufTensor { name: name.into(), kind, shape, start, bytes })
}
