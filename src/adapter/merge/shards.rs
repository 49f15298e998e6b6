//! The safetensors files of a merged model, laid out from shapes before any number is read.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Name of a checkpoint's single file.
const SINGLE: &str = "model.safetensors";
/// Name of the index file, which lists the shard of each tensor.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: usize,
}

impl Planned {
    /// # Errors
    /// If the size overflows, or is not a whole number of bytes.
    pub fn new(name: &str, dtype: Dtype, shape: Vec<usize>) -> Result<Self> {
        let bits = shape.iter().try_fold(dtype.bitsize(), |n, size| n.checked_mul(*size));
        let bytes = bits.filter(|bits| bits % 8 == 0).map(|bits| bits / 8);
        let bytes = bytes.ok_or_else(|| {
            Error::Weights(format!("tensor {name} of shape {shape:?} does not fill whole bytes"))
        })?;
        Ok(Self { name: name.into(), dtype, shape, bytes })
    }

    fn numbers(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One file and its tensors, in their order in the file.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub file: String,
    pub tensors: Vec<Planned>,
}

impl Shard {
    /// Distributes tensors, in the given order, over files of at most `limit` bytes; a larger tensor gets its own file.
    pub fn plan(tensors: Vec<Planned>, limit: u64) -> Vec<Self> {
        let mut cuts: Vec<Vec<Planned>> = Vec::new();
        let mut size = 0u64;
        for tensor in tensors {
            let bytes = tensor.bytes as u64;
            match cuts.last_mut() {
                Some(last) if size.saturating_add(bytes) <= limit => {
                    size += bytes;
                    last.push(tensor);
                }
                _ => {
                    size = bytes;
                    cuts.push(vec![tensor]);
                }
            }
        }
        let count = cuts.len();
        let file = |i: usize| {
            if count == 1 { SINGLE.into() } else { format!("model-{:05}-of-{count:05}.safetensors", i + 1) }
        };
        // Wide types first, as the safetensors crate orders them: every tensor is then aligned to its own type.
        let order = |mut tensors: Vec<Planned>| {
            tensors.sort_by(|a, b| (b.dtype.bitsize(), &a.name).cmp(&(a.dtype.bitsize(), &b.name)));
            tensors
        };
        cuts.into_iter().enumerate().map(|(i, cut)| Self { file: file(i), tensors: order(cut) }).collect()
    }

    /// Writes the header: its length in 8 bytes, then JSON padded to a multiple of 8, as the format requires.
    ///
    /// # Errors
    /// If the tensors cannot be serialised, or the disk is full.
    pub fn write_header(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut start = 0;
        let mut infos = Vec::with_capacity(self.tensors.len());
        for Planned { name, dtype, shape, bytes } in &self.tensors {
            let data_offsets = (start, start + bytes);
            start += bytes;
            infos.push((name.clone(), TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets }));
        }
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        let header = Metadata::new(Some(metadata), infos).map_err(std::io::Error::other)?;
        let mut text = serde_json::to_vec(&header)?;
        text.resize(text.len().next_multiple_of(8), b' ');
        out.write_all(&(text.len() as u64).to_le_bytes())?;
        out.write_all(&text)
    }
}

/// transformers' index of several shards.
pub(super) fn index(shards: &[Shard]) -> Value {
    let tensors = || shards.iter().flat_map(|shard| shard.tensors.iter().map(move |tensor| (shard, tensor)));
    let map: BTreeMap<&str, &str> = tensors().map(|(s, t)| (t.name.as_str(), s.file.as_str())).collect();
    let numbers: usize = tensors().map(|(_, tensor)| tensor.numbers()).sum();
    let size: usize = tensors().map(|(_, tensor)| tensor.bytes).sum();
    json!({ "metadata": { "total_parameters": numbers, "total_size": size }, "weight_map": map })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, dtype: Dtype, size: usize) -> Planned {
        Planned::new(name, dtype, vec![size]).unwrap()
    }

    #[test]
    fn shards_hold_the_limit_and_a_large_tensor_stands_alone() {
        let sizes = [("a", 10), ("b", 10), ("c", 99), ("d", 5), ("e", 15), ("f", 1)];
        let tensors = sizes.iter().map(|(name, size)| tensor(name, Dtype::U8, *size)).collect::<Vec<_>>();
        let names = |limit| {
            let shards = Shard::plan(tensors.clone(), limit);
            let each = shards.iter().map(|s| s.tensors.iter().map(|t| t.name.as_str()).collect::<String>());
            each.collect::<Vec<_>>()
        };
        assert_eq!(names(20), ["ab", "c", "de", "f"]);
        assert_eq!(names(u64::MAX), ["abcdef"]);
        assert_eq!(names(0).len(), 6);
        assert_eq!(Shard::plan(tensors.clone(), 20)[1].file, "model-00002-of-00004.safetensors");
        assert_eq!(index(&Shard::plan(tensors, 20))["metadata"]["total_size"], 140);
    }

    #[test]
    fn wide_types_come_first_and_the_header_is_read_back() {
        let tensors =
            vec![tensor("a", Dtype::U8, 3), tensor("b", Dtype::BF16, 3), tensor("c", Dtype::F32, 1)];
        let [shard] = &Shard::plan(tensors, u64::MAX)[..] else { panic!("one shard expected") };
        let mut bytes = Vec::new();
        shard.write_header(&mut bytes).unwrap();
        assert_eq!(bytes.len() % 8, 0);
        bytes.extend([0; 13]);
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.offset_keys(), ["c", "b", "a"]);
        assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
        assert_eq!(read.tensor("b").unwrap().shape(), [3]);
        assert!(Planned::new("x", Dtype::F32, vec![usize::MAX, 2]).is_err());
    }
}
