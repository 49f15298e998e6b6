//! The metadata keys below an architecture's name. A key that is not read is refused by its name, unless it cannot change
//! what the model computes.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::weights::gguf::{GgufFile, Value};

/// Keys that llama.cpp does not compute with in these architectures: they describe a file, an epsilon of norms that they
/// do not have, or settings of yarn that llama.cpp reads for other architectures only.
const HARMLESS: &[&str] = &[
    "attention.layer_norm_epsilon",
    "classifier.output_labels",
    "decoder_start_token_id",
    "pooling_type",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_log_multiplier",
    "tensor_data_layout",
    // Of GPT-NeoX alone; llama.cpp's converter of early 2024 wrote it for every architecture.
    "use_parallel_residual",
    "vocab_size",
];

/// Beginnings of keys that describe the part for images, whose tensors are refused by their names.
const IMAGES: &[&str] = &["mm.", "vision."];

/// Values with which a key has no effect.
const NEUTRAL: &[(&str, Value<'static>)] = &[
    ("attention.clamp_kqv", Value::Float(0.0)),
    ("attention.max_alibi_bias", Value::Float(0.0)),
    ("attention.scale", Value::Float(0.0)),
    ("attention.sliding_window", Value::Integer(0)),
    ("embedding_scale", Value::Float(1.0)),
    ("expert_group_count", Value::Integer(0)),
    ("expert_group_used_count", Value::Integer(0)),
    ("expert_shared_count", Value::Integer(0)),
    ("expert_used_count", Value::Integer(0)),
    ("leading_dense_block_count", Value::Integer(0)),
    ("logit_scale", Value::Float(1.0)),
    ("nextn_predict_layers", Value::Integer(0)),
    ("residual_scale", Value::Float(1.0)),
];

/// The metadata keys below the architecture's name.
pub(super) struct Keys<'a> {
    pub file: &'a GgufFile,
    pub architecture: &'static str,
    /// Names of the keys that were read.
    read: RefCell<BTreeSet<&'static str>>,
}

/// Adds the file's path to an error about its metadata.
pub(super) fn located<T>(file: &GgufFile, result: Result<T>) -> Result<T> {
    result.map_err(|e| Error::Model(format!("{}: {e}", file.path().display())))
}

impl<'a> Keys<'a> {
    pub fn new(file: &'a GgufFile, architecture: &'static str) -> Self {
        Self { file, architecture, read: RefCell::default() }
    }

    /// The whole key, as the file has it. It counts as read.
    fn key(&self, name: &'static str) -> String {
        self.read.borrow_mut().insert(name);
        format!("{}.{name}", self.architecture)
    }

    pub fn get(&self, name: &'static str) -> Option<Value<'a>> {
        self.file.metadata().get(&self.key(name))
    }

    pub fn size_or_none(&self, name: &'static str) -> Result<Option<u64>> {
        located(self.file, self.file.metadata().integer(&self.key(name)))
    }

    pub fn size(&self, name: &'static str) -> Result<u64> {
        self.required(name, self.size_or_none(name)?)
    }

    /// A size that may be listed for each layer; it must be the same in all of them.
    pub fn size_of_layers_or_none(&self, name: &'static str, layers: u64) -> Result<Option<u64>> {
        let Some(Value::Array(list)) = self.get(name) else { return self.size_or_none(name) };
        let mut sizes = list.iter().map(|size| match size {
            Value::Integer(size) => u64::try_from(size).ok(),
            _ => None,
        });
        let first = sizes.next().flatten();
        if first.is_some() && list.len() as u64 == layers && sizes.all(|size| size == first) {
            return Ok(first);
        }
        let why = format!("is a list; only {layers} equal whole numbers, one for each layer, are supported");
        Err(self.unsupported(name, &why))
    }

    pub fn number_or_none(&self, name: &'static str) -> Result<Option<f64>> {
        let number = located(self.file, self.file.metadata().float(&self.key(name)))?;
        // The value is stored as f32, so 0.100000001 means 0.1.
        Ok(number.map(|number| (number as f32).to_string().parse().unwrap_or(number)))
    }

    pub fn number(&self, name: &'static str) -> Result<f64> {
        self.required(name, self.number_or_none(name)?)
    }

    pub fn text_or_none(&self, name: &'static str) -> Result<Option<&'a str>> {
        located(self.file, self.file.metadata().text(&self.key(name)))
    }

    pub fn flag_or_none(&self, name: &'static str) -> Result<Option<bool>> {
        located(self.file, self.file.metadata().flag(&self.key(name)))
    }

    /// A value without which the model cannot be computed.
    pub fn required<T>(&self, name: &'static str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| {
            let (path, key) = (self.file.path().display(), self.key(name));
            Error::Model(format!("{path} has no {key} in its metadata; convert the model again"))
        })
    }

    pub fn unsupported(&self, name: &'static str, why: &str) -> Error {
        let (path, key) = (self.file.path().display(), self.key(name));
        Error::Model(format!("{path}: {key}: {why}"))
    }

    /// Refuses keys that were not read and could change what the model computes.
    ///
    /// # Errors
    /// If there is such a key.
    pub fn check_all_read(&self) -> Result<()> {
        let (read, metadata) = (self.read.borrow(), self.file.metadata());
        let strange = |key: &&str| {
            let name = key.strip_prefix(self.architecture).and_then(|rest| rest.strip_prefix('.'));
            name.is_some_and(|name| {
                let neutral = NEUTRAL.iter().find(|(key, _)| *key == name);
                !read.contains(name)
                    && !HARMLESS.contains(&name)
                    && !IMAGES.iter().any(|start| name.starts_with(start))
                    && neutral.is_none_or(|(_, value)| metadata.get(key).as_ref() != Some(value))
            })
        };
        let strangers: Vec<&str> = metadata.keys().filter(strange).take(3).collect();
        if strangers.is_empty() {
            return Ok(());
        }
        Err(Error::Model(format!(
            "{}: {}: not understood, and could change what the model computes; use the model's safetensors, or take it away \
             with gguf-py's `gguf-new-metadata --remove-metadata {}`",
            self.file.path().display(),
            strangers.join(", "),
            strangers[0]
        )))
    }
}
