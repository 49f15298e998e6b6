//! Cached keys and values of the rows already processed, for generation.

use super::engine::DeviceCache;
use super::layer_cache::LayerCache;

/// The caches of all layers.
#[derive(Debug)]
pub struct Cache {
    pub(super) layers: Vec<LayerCache>,
    pub(super) seen: usize,
    /// The tokens processed so far, for models that may have to recompute their keys.
    pub(super) tokens: Vec<u32>,
    /// Keys and values on a device.
    pub(super) on_device: DeviceCache,
}

impl Cache {
    /// Creates an empty cache for a decoder of `layers` blocks.
    pub fn new(layers: usize) -> Self {
        let layers = vec![LayerCache::default(); layers];
        Self { layers, seen: 0, tokens: Vec::new(), on_device: DeviceCache::default() }
    }

    /// Clears the keys and values, and returns the tokens processed so far followed by `tokens`.
    pub(super) fn restart(&mut self, tokens: &[u32]) -> Vec<u32> {
        let all = [&self.tokens, tokens].concat();
        *self = Self::new(self.layers.len());
        all
    }

    /// Returns a copy of the keys and values on the processor.
    pub(super) fn copied(&self) -> Self {
        let (layers, tokens) = (self.layers.clone(), self.tokens.clone());
        Self { layers, seen: self.seen, tokens, on_device: DeviceCache::default() }
    }

    /// The number of rows processed so far.
    pub fn seen(&self) -> usize {
        self.seen
    }
}
