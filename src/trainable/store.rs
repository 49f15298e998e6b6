//! The store of all trained parameters: values, gradient and optimizer moments, as flat f32 buffers of the same layout.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ops::host;

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

/// The numbers of an optimizer's state.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// Single precision, which most states have.
    F32(Vec<f32>),
    /// Double precision: sums over the steps.
    F64(Vec<f64>),
    /// Codes of quantised numbers.
    U8(Vec<u8>),
}

impl Numbers {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::U8(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether all are finite.
    pub fn is_finite(&self) -> bool {
        match self {
            Self::F32(values) => values.iter().all(|x| x.is_finite()),
            Self::F64(values) => values.iter().all(|x| x.is_finite()),
            Self::U8(_) => true,
        }
    }

    /// Whether `other` has the same type.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// The numbers, if they are of single precision; else none.
    pub fn f32s(&self) -> &[f32] {
        match self {
            Self::F32(values) => values,
            Self::F64(_) | Self::U8(_) => &[],
        }
    }
}

/// A part of an optimizer's state.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// Its name in torch.
    pub name: &'static str,
    /// One per parameter, unless the optimizer says otherwise.
    pub values: Numbers,
}

impl Moment {
    /// Creates `count` zeros of single precision.
    pub fn zeros(name: &'static str, count: usize) -> Self {
        Self { name, values: Numbers::F32(vec![0.0; count]) }
    }

    /// The numbers, to be updated, if they are of single precision; else none.
    pub fn f32s_mut(&mut self) -> &mut [f32] {
        match &mut self.values {
            Numbers::F32(values) => values,
            Numbers::F64(_) | Numbers::U8(_) => &mut [],
        }
    }

    /// The numbers, to be updated, if they are of double precision; else none.
    pub fn f64s_mut(&mut self) -> &mut [f64] {
        match &mut self.values {
            Numbers::F64(values) => values,
            Numbers::F32(_) | Numbers::U8(_) => &mut [],
        }
    }

    /// The codes, to be updated, if these are codes; else none.
    pub fn codes_mut(&mut self) -> &mut [u8] {
        match &mut self.values {
            Numbers::U8(values) => values,
            Numbers::F32(_) | Numbers::F64(_) => &mut [],
        }
    }
}

/// The parts of a store that an optimizer step uses.
pub struct Parts<'a> {
    /// The parameters, to be updated.
    pub values: &'a mut [f32],
    /// Their gradient.
    pub gradient: &'a [f32],
    /// The moments, to be updated.
    pub moments: &'a mut [Moment],
    /// The tensors, in the order of the buffers.
    pub entries: &'a [Entry],
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
        if self.gradient.len() == self.values.len() {
            host::clear(&mut self.gradient);
        } else {
            self.gradient = host::zeros(self.values.len());
        }
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
        self.moments = names.iter().map(|name| Moment::zeros(name, self.values.len())).collect();
    }

    /// Runs one optimizer step.
    pub fn step(&mut self, rule: impl FnOnce(Parts)) {
        let Self { values, gradient, moments, entries, .. } = self;
        rule(Parts { values, gradient, moments, entries });
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
        store.step(|Parts { values, gradient, moments, .. }| {
            values.iter_mut().zip(gradient).for_each(|(value, slope)| *value -= slope);
            moments[0].f32s_mut().copy_from_slice(gradient);
        });
        versions.push(store.version());
        versions.push(store.copy().version());
        assert!(store.values().iter().chain(store.moments()[0].values.f32s()).all(|x| *x == 0.5));
        assert!(store.copy().moments().is_empty() && store.copy().gradient().is_empty());
        versions.sort_unstable();
        versions.dedup();
        assert_eq!(versions.len(), 4, "no two contents share a version");
    }
}
