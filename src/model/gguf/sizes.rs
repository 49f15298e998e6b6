//! The sizes of a model, from its metadata.

use super::keys::Keys;
use crate::error::Result;

/// The largest accepted number of features of a head: a table of this size is built before any tensor is checked.
const LONGEST_HEAD: u64 = 1 << 16;

/// The sizes on which other settings depend.
pub(super) struct Sizes {
    pub layers: u64,
    pub hidden: u64,
    pub heads: u64,
    pub head_dim: u64,
}

impl Sizes {
    /// Reads them.
    ///
    /// # Errors
    /// If one is missing or impossible.
    pub(super) fn read(keys: &Keys) -> Result<Self> {
        let hidden = keys.size("embedding_length")?;
        let layers = keys.size("block_count")?;
        if layers > keys.file.tensors().count() as u64 {
            let why = format!("{layers} blocks, more than there are tensors");
            return Err(keys.unsupported("block_count", &why));
        }
        let heads = keys.size_of_layers_or_none("attention.head_count", layers)?;
        let heads = keys.required("attention.head_count", heads)?;
        let head_dim = match keys.size_or_none("attention.key_length")? {
            Some(head_dim) => head_dim,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        if keys.size_or_none("attention.value_length")?.is_some_and(|value| value != head_dim) {
            return Err(
                keys.unsupported("attention.value_length", "only values as long as keys are supported")
            );
        }
        if head_dim == 0 || head_dim > LONGEST_HEAD {
            return Err(keys.unsupported("attention.key_length", &format!("heads of {head_dim} features")));
        }
        Ok(Self { layers, hidden, heads, head_dim })
    }
}
