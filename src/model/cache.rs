//! Keys and values of the rows already seen, for generation.

use super::engine::DeviceCache;
use super::layer_cache::LayerCache;

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
