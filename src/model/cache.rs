//! Keys and values of the rows already seen, for generation.

use candle_core::Tensor;

use super::engine::DeviceCache;
use crate::error::Result;

/// Keys and values of one layer, `[seen, n_kv_head·head_dim]` each.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    seen: Option<(Tensor, Tensor)>,
}

impl LayerCache {
    /// Appends rows; gives all so far.
    ///
    /// # Errors
    /// If the widths differ.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let all = match &self.seen {
            None => (k.clone(), v.clone()),
            Some((old_k, old_v)) => (Tensor::cat(&[old_k, k], 0)?, Tensor::cat(&[old_v, v], 0)?),
        };
        self.seen = Some(all.clone());
        Ok(all)
    }
}

/// The caches of all layers.
#[derive(Debug)]
pub struct Cache {
    pub(super) layers: Vec<LayerCache>,
    pub(super) seen: usize,
    /// The tokens seen, of models whose keys may have to be made again.
    pub(super) tokens: Vec<u32>,
    /// Keys and values on a device.
    pub(super) on_device: DeviceCache,
}

impl Cache {
    /// Nothing seen, of a decoder of `layers` blocks.
    pub fn new(layers: usize) -> Self {
        let layers = vec![LayerCache::default(); layers];
        Self { layers, seen: 0, tokens: Vec::new(), on_device: DeviceCache::default() }
    }

    /// Forgets keys and values; the tokens seen, in front of `tokens`.
    pub(super) fn restart(&mut self, tokens: &[u32]) -> Vec<u32> {
        let all = [&self.tokens, tokens].concat();
        *self = Self::new(self.layers.len());
        all
    }

    /// Rows seen so far.
    pub fn seen(&self) -> usize {
        self.seen
    }
}
