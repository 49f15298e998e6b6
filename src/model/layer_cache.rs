//! Cached keys and values of the rows already processed by one layer, on the processor.

use crate::error::{Error, Result};
use crate::ops::Tensor;
use crate::ops::tree_attention::{Seen, TreeSpans};

/// Keys and values of one sequence in one layer, `[seen, n_kv_head·head_dim]` each.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl LayerCache {
    /// All keys and values so far.
    pub fn seen(&self) -> Seen<'_> {
        Seen { k: &self.keys, v: &self.values }
    }
}

/// Appends the new rows of every tree to its cache.
///
/// # Errors
/// If there is not one cache for each tree, or a tree has rows that `k` and `v` lack.
pub fn append(caches: &mut [&mut LayerCache], k: &Tensor, v: &Tensor, trees: &[TreeSpans]) -> Result<()> {
    let width = k.shape().1;
    if caches.len() != trees.len() || v.shape() != k.shape() {
        return Err(Error::Model(format!("{} caches of keys for {} sequences", caches.len(), trees.len())));
    }
    for (cache, tree) in caches.iter_mut().zip(trees) {
        let range = tree.rows.start * width..tree.rows.end * width;
        let (Some(k), Some(v)) = (k.numbers().get(range.clone()), v.numbers().get(range)) else {
            return Err(Error::Model(format!("rows {:?} of {} new keys", tree.rows, k.shape().0)));
        };
        cache.keys.extend_from_slice(k);
        cache.values.extend_from_slice(v);
    }
    Ok(())
}
