//! Cached keys and values of the rows already processed by one layer, on the processor.

use crate::error::Result;
use crate::ops::Tensor;

/// Keys and values of one layer, `[seen, n_kv_head·head_dim]` each.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    seen: Option<(Tensor, Tensor)>,
}

impl LayerCache {
    /// Whether there are no rows yet.
    pub fn is_empty(&self) -> bool {
        self.seen.is_none()
    }

    /// Appends rows and returns all rows so far.
    ///
    /// # Errors
    /// If the widths differ.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let all = match &self.seen {
            None => (k.clone(), v.clone()),
            Some((old_k, old_v)) => (old_k.above(k)?, old_v.above(v)?),
        };
        self.seen = Some(all.clone());
        Ok(all)
    }
}
