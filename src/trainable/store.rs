//! The store of all trained parameters: values, gradient and optimizer moments, as flat f32 buffers of the same layout.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Dimensions of a tensor, outermost first.
pub type Shape = Vec<usize>;

/// A tensor in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name in a PEFT file, without `base_model.model.`.
    pub name: String,
    /// Dimensions.
    pub shape: Shape,
    /// Range in the flat buffers, row-major.
    pub range: Range<usize>,
}

/// An optimizer's state for every parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// Its name in torch.
    pub name: &'static str,
    /// One per parameter.
    pub values: Vec<f32>,
}

/// The parts of a store that an optimizer step uses.
pub struct Parts<'a> {
    /// The parameters, to be updated.
    pub values: &'a mut [f32],
    /// Their gradient.
    pub gradient: &'a [f32],
    /// The moments, to be updated.
    pub moments: &'a mut [Moment],
}

/// Named tensors in flat buffers. The gradient and the moments are allocated on first use.
#[derive(Debug, Default)]
pub struct Store {
    entries: Vec<Entry>,
    values: Vec<f32>,
    gradient: Vec<f32>,
    moments: Vec<Moment>,
    version: u64,
}

/// The latest version number of any store; 0 is the version of empty stores.
static VERSIONS: AtomicU64 = AtomicU64::new(0);

fn next_version() -> u64 {
    VERSIONS.fetch_add(1, Ordering::Relaxed) + 1
}

impl Store {
    /// Appends a tensor of zeros. Discards gradient and moments, if any.
    pub fn add(&mut self, name: String, shape: Shape) {
        let start = self.values.len();
        let end = start + shape.iter().product::<usize>();
        self.values.resize(end, 0.0);
        self.entries.push(Entry { name, shape, range: start..end });
        self.gradient.clear();
        self.moments.clear();
        self.version = next_version();
    }

    /// The tensors, in the order of the flat buffers.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All values.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// A version number unique among all values of all stores, past and present: a copy with the same number is up to
    /// date.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Changes the values.
    pub fn update(&mut self, change: impl FnOnce(&mut [f32])) {
        change(&mut self.values);
        self.version = next_version();
    }

    /// The gradient of the values; empty before [`Store::clear_gradient`].
    pub fn gradient(&self) -> &[f32] {
        &self.gradient
    }

    /// Sets the gradient to zeros.
    pub fn clear_gradient(&mut self) {
        self.gradient.clear();
        self.gradient.resize(self.values.len(), 0.0);
    }

    /// Changes the gradient.
    pub fn update_gradient(&mut self, change: impl FnOnce(&mut [f32])) {
        change(&mut self.gradient);
    }

    pub(super) fn take_gradient(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.gradient)
    }

    pub(super) fn put_gradient(&mut self, gradient: Vec<f32>) {
        self.gradient = gradient;
    }

    /// The optimizer's moments; empty before its first step.
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// Replaces the moments.
    pub fn set_moments(&mut self, moments: Vec<Moment>) {
        self.moments = moments;
    }

    /// Creates moments of zeros with these names.
    pub fn clear_moments(&mut self, names: &[&'static str]) {
        let zeros = |name: &&'static str| Moment { name, values: vec![0.0; self.values.len()] };
        self.moments = names.iter().map(zeros).collect();
    }

    /// Runs one optimizer step.
    pub fn step(&mut self, rule: impl FnOnce(Parts)) {
        let Self { values, gradient, moments, .. } = self;
        rule(Parts { values, gradient, moments });
        self.version = next_version();
    }

    /// Returns an independent copy of the values.
    pub(super) fn copy(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            values: self.values.clone(),
            version: next_version(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_partition_the_buffer_and_every_change_is_a_version() {
        let mut store = Store::default();
        store.add("a".into(), vec![2, 3]);
        store.add("b".into(), vec![4]);
        let ranges: Vec<_> = store.entries().iter().map(|entry| entry.range.clone()).collect();
        assert_eq!((ranges, store.values().len()), (vec![0..6, 6..10], 10));
        let mut versions = vec![store.version()];
        store.update(|values| values.fill(1.0));
        versions.push(store.version());
        store.clear_gradient();
        store.update_gradient(|gradient| gradient.fill(0.5));
        store.clear_moments(&["sum"]);
        store.step(|Parts { values, gradient, moments }| {
            values.iter_mut().zip(gradient).for_each(|(value, slope)| *value -= slope);
            moments[0].values.copy_from_slice(gradient);
        });
        versions.push(store.version());
        versions.push(store.copy().version());
        assert!(store.values().iter().chain(&store.moments()[0].values).all(|x| *x == 0.5));
        assert!(store.copy().moments().is_empty() && store.copy().gradient().is_empty());
        versions.sort_unstable();
        versions.dedup();
        assert_eq!(versions.len(), 4, "no two contents share a version");
    }
}
