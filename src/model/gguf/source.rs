//! A GGUF file's tensors, converted to the form of transformers' model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::files::FileStamp;
use crate::weights::gguf::{GgufFile, GgufTensor};
use crate::weights::{FrozenWeight, Stored, WeightSource};

/// The change that llama.cpp's converter made to a tensor, besides storing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// The rows of each head were reordered from halves to neighbours, `[2, d/2]` to `[d/2, 2]`.
    Permuted {
        heads: usize,
    },
    /// One was added to every number.
    PlusOne,
}

/// A tensor, by its name in the file.
#[derive(Debug)]
pub(super) struct Tensor {
    name: String,
    change: Change,
    /// The tensor with its change undone, created at the first request: the only copy of it.
    restored: OnceLock<FrozenWeight>,
}

impl Tensor {
    pub fn new(name: String, change: Change) -> Self {
        Self { name, change, restored: OnceLock::new() }
    }
}

/// The tensors of a base in a GGUF file, by their names in transformers' model. They are mapped; those that llama.cpp
/// stores differently (queries and keys of architecture llama, Gemma's norms) are restored in a copy, still quantised.
#[derive(Debug)]
pub struct GgufSource {
    file: Arc<GgufFile>,
    tensors: BTreeMap<String, Tensor>,
}

impl GgufSource {
    /// Every tensor of the file must be among `tensors`, or among `settings`, which are read elsewhere.
    pub(super) fn new(
        file: Arc<GgufFile>,
        tensors: BTreeMap<String, Tensor>,
        settings: &[&str],
    ) -> Result<Self> {
        let known: BTreeSet<&str> = tensors.values().map(|tensor| tensor.name.as_str()).collect();
        let strangers: Vec<&str> = file
            .tensors()
            .map(|tensor| tensor.name.as_str())
            .filter(|name| !known.contains(name) && !settings.contains(name))
            .take(3)
            .collect();
        if !strangers.is_empty() {
            return Err(Error::Model(format!(
                "{} holds tensors that its architecture does not have here: {}; use the model's safetensors",
                file.path().display(),
                strangers.join(", ")
            )));
        }
        Ok(Self { file, tensors })
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::Weights(format!("{} has no tensor for {name}", self.file.path().display())))
    }

    /// Returns a tensor with its change undone.
    fn restored<'a>(&self, tensor: &'a Tensor) -> Result<&'a FrozenWeight> {
        if let Some(restored) = tensor.restored.get() {
            return Ok(restored);
        }
        let stored = self.file.weight(&tensor.name)?;
        let restored = match tensor.change {
            Change::None => stored,
            Change::PlusOne => {
                let numbers = stored.elements().to_f32().iter().map(|x| x - 1.0).collect();
                FrozenWeight::from_f32(numbers, stored.shape())?
            }
            Change::Permuted { heads } => self.halves(&tensor.name, &stored, heads)?,
        };
        Ok(tensor.restored.get_or_init(|| restored))
    }

    /// Reorders rows from neighbours back to halves.
    fn halves(&self, name: &str, stored: &FrozenWeight, heads: usize) -> Result<FrozenWeight> {
        let (rows, bytes) = (stored.shape()[0], self.file.bytes(name)?);
        let width = rows.checked_div(heads).filter(|width| width * heads == rows && width.is_multiple_of(2));
        let width = width.ok_or_else(|| {
            Error::Model(format!(
                "tensor {name} of {} has {rows} rows, which do not make {heads} heads; does its metadata belong to it?",
                self.file.path().display()
            ))
        })?;
        let size = bytes.len() / rows;
        let mut restored = Vec::with_capacity(bytes.len());
        for row in 0..rows {
            let (head, at) = (row / width, row % width);
            let source = head * width + at % (width / 2) * 2 + at / (width / 2);
            restored.extend_from_slice(&bytes[source * size..(source + 1) * size]);
        }
        stored.with_bytes(restored)
    }
}

impl WeightSource for GgufSource {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.file.find(&self.tensors.get(name)?.name)?.shape.clone())
    }

    fn get(&self, name: &str) -> Result<FrozenWeight> {
        let tensor = self.tensor(name)?;
        match tensor.change {
            Change::None => self.file.weight(&tensor.name),
            _ => self.restored(tensor).cloned(),
        }
    }

    fn stored(&self, name: &str) -> Result<Stored<'_>> {
        let tensor = self.tensor(name)?;
        let GgufTensor { kind, shape, .. } = self.file.tensor(&tensor.name)?;
        if tensor.change == Change::None {
            return Ok(Stored {
                dtype: kind.name().into(),
                shape: shape.clone(),
                bytes: self.file.bytes(&tensor.name)?,
            });
        }
        let restored = self.restored(tensor)?;
        let dtype = restored.storage().to_uppercase();
        Ok(Stored { dtype, shape: shape.clone(), bytes: restored.bytes() })
    }

    fn files(&self) -> Vec<FileStamp> {
        vec![self.file.stamp().clone()]
    }

    fn describe(&self) -> String {
        self.file.path().display().to_string()
    }
}
