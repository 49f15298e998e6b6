//! The merge request: the model to merge into, and how to write it.

use std::path::Path;

use crate::model::spec::DecoderSpec;
use crate::weights::{DType, WeightSource};

/// The model to merge into.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// The model directory, for its configuration and tokenizer.
    pub directory: &'a Path,
    /// Its tensors.
    pub source: &'a dyn WeightSource,
    /// Its architecture.
    pub spec: &'a DecoderSpec,
}

/// How to write the merged model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeOptions<'a> {
    /// The storage type; `None`: that of each tensor in the base.
    pub dtype: Option<DType>,
    /// Limit of the bytes of a file's tensors (a larger tensor gets its own file).
    pub shard_bytes: u64,
    /// Whether to replace an existing model.
    pub overwrite: bool,
    /// The chat template that takes the place of the base's; `None`: the base's own.
    pub chat_template: Option<&'a str>,
}

impl Default for MergeOptions<'_> {
    /// The base's storage types, shards of 5 GB as in transformers' `save_pretrained`, and nothing is replaced.
    fn default() -> Self {
        Self { dtype: None, shard_bytes: 5_000_000_000, overwrite: false, chat_template: None }
    }
}
