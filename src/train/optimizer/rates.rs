//! The learning rate of each tensor. With LoRA+ (Hayou et al. 2024, arXiv 2402.12354), B learns faster than A.

use std::ops::Range;

use crate::trainable::lora;
use crate::trainable::store::Entry;

/// The learning rates of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    /// That of every tensor but those of `ratio`.
    lr: f64,
    /// The factor of B and of vectors.
    ratio: f64,
}

impl From<f64> for Rates {
    fn from(lr: f64) -> Self {
        Self { lr, ratio: 1.0 }
    }
}

impl Rates {
    /// Creates rates of `lr`, and of `lr · ratio` for B.
    pub(super) fn new(lr: f64, ratio: f64) -> Self {
        Self { lr, ratio }
    }

    /// Returns the learning rate of a tensor. As in PEFT's `create_loraplus_optimizer`, `ratio` applies to B and to
    /// whatever has one dimension, such as the magnitude of DoRA.
    pub(super) fn of(self, entry: &Entry) -> f64 {
        let faster = entry.name.ends_with(lora::B) || entry.shape.len() == 1;
        if faster { self.lr * self.ratio } else { self.lr }
    }

    /// Returns the learning rate of a tensor that is not faster.
    pub(super) fn base(self) -> f64 {
        self.lr
    }

    /// Divides a buffer of `count` numbers into ranges of one learning rate each, in order.
    pub(super) fn ranges(self, entries: &[Entry], count: usize) -> Vec<(Range<usize>, f64)> {
        if self.ratio == 1.0 {
            return vec![(0..count, self.lr)];
        }
        entries.iter().map(|entry| (entry.range.clone(), self.of(entry))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainable::Store;

    #[test]
    fn b_and_vectors_learn_faster_and_the_ranges_cover_everything() {
        let mut store = Store::default();
        store.add("m.lora_A.weight".into(), vec![2, 3]);
        store.add("m.lora_B.weight".into(), vec![4, 2]);
        store.add("m.lora_magnitude_vector".into(), vec![4]);
        let rates = Rates::new(0.5, 8.0);
        assert_eq!(rates.ranges(store.entries(), 18), [(0..6, 0.5), (6..14, 4.0), (14..18, 4.0)]);
        assert_eq!(Rates::from(0.5).ranges(store.entries(), 18), [(0..18, 0.5)]);
    }
}
