//! Principal components of rows that come batch by batch (Ross et al. 2008, "Incremental learning for robust visual
//! tracking"), as scikit-learn and PEFT compute them.
//!
//! With the components V of the rows so far, their singular values S and their mean, the next components are those of
//! `[S·V; X − mean(X); √(n·t/(n + t))·(mean − mean(X))]`, for n rows so far and t new ones.

use super::svd::{self, Iterations, Svd};
use crate::random::Stream;

/// The components of the rows so far.
#[derive(Clone, Debug, Default)]
pub struct IncrementalPca {
    /// Number of components.
    count: usize,
    /// Length of a row.
    features: usize,
    rows: usize,
    mean: Vec<f64>,
    /// Sum of the squared distances of all rows from their mean.
    scatter: f64,
    /// The components as rows `[count, features]`, by falling singular value; each has its largest element positive.
    pub components: Vec<f32>,
    /// Their singular values.
    pub values: Vec<f64>,
}

impl IncrementalPca {
    /// Creates an analysis with `count` components of rows of `features` numbers.
    pub fn new(count: usize, features: usize) -> Self {
        Self { count, features, mean: vec![0.0; features], ..Self::default() }
    }

    /// The number of components.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether no rows have come yet.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The shares of the whole variance that the components explain.
    pub fn shares(&self) -> impl Iterator<Item = f64> {
        let scatter = self.scatter;
        self.values.iter().map(move |value| if scatter > 0.0 { value * value / scatter } else { 0.0 })
    }

    /// Adds rows `[t, features]`. Fewer rows than components are ignored, as in PEFT; returns whether they were added.
    pub fn fit(&mut self, rows: &[f32], stream: Stream) -> bool {
        let new = rows.len() / self.features.max(1);
        if new < self.count.max(1) {
            return false;
        }
        let (n, t) = (self.rows as f64, new as f64);
        let mut mean = vec![0.0f64; self.features];
        for row in rows.chunks_exact(self.features) {
            mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        mean.iter_mut().for_each(|sum| *sum /= t);
        let mut stack: Vec<f32> = Vec::with_capacity(rows.len() + (self.count + 1) * self.features);
        for (value, component) in self.values.iter().zip(self.components.chunks_exact(self.features)) {
            stack.extend(component.iter().map(|x| (value * f64::from(*x)) as f32));
        }
        let mut scatter = 0.0;
        for row in rows.chunks_exact(self.features) {
            let centred = row.iter().zip(&mean).map(|(x, mean)| f64::from(*x) - mean);
            scatter += centred.clone().map(|x| x * x).sum::<f64>();
            stack.extend(centred.map(|x| x as f32));
        }
        let weight = n * t / (n + t);
        let apart = || self.mean.iter().zip(&mean).map(|(old, new)| old - new);
        if self.rows > 0 {
            stack.extend(apart().map(|x| (weight.sqrt() * x) as f32));
        }
        self.scatter += scatter + weight * apart().map(|x| x * x).sum::<f64>();
        let shape = (stack.len() / self.features, self.features);
        let Svd { values, mut right, .. } =
            svd::leading(&stack, shape, self.count, Iterations::UntilSettled, stream);
        right.chunks_exact_mut(self.features).for_each(turn);
        (self.values, self.components) = (values, right);
        self.mean.iter_mut().zip(&mean).for_each(|(old, new)| *old += (new - *old) * t / (n + t));
        self.rows += new;
        true
    }
}

/// Gives a vector the sign with which its largest element is positive.
fn turn(vector: &mut [f32]) {
    let largest = vector.iter().fold(0.0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
    if largest < 0.0 {
        vector.iter_mut().for_each(|x| *x = -*x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize) -> Vec<f32> {
        let stream = Stream::new(1, "pca");
        let direction = |i: usize, k: usize| if i % 6 == k { 1.0 } else { 0.2 };
        let row = |t: usize| {
            let (x, y) = (stream.uniform(2 * t as u64) - 0.3, stream.uniform(2 * t as u64 + 1) - 0.5);
            (0..6).map(move |i| 4.0 * x * direction(i, 0) + y * direction(i, 3) + 2.0)
        };
        (0..count).flat_map(row).collect()
    }

    #[test]
    fn batches_give_what_all_rows_at_once_give() {
        let (all, stream) = (rows(60), Stream::new(2, "start"));
        let mut whole = IncrementalPca::new(2, 6);
        assert!(whole.is_empty() && whole.fit(&all, stream) && !whole.is_empty());
        let mut parts = IncrementalPca::new(2, 6);
        assert!(!parts.fit(&all[..6], stream), "one row, two components");
        for part in all.chunks(17 * 6) {
            assert!(parts.fit(part, stream));
        }
        // All variance lies in two dimensions, so nothing is lost between batches.
        assert!((whole.shares().sum::<f64>() - 1.0).abs() < 1e-5);
        for (x, y) in whole.shares().zip(parts.shares()) {
            assert!((x - y).abs() < 1e-5, "{x} {y}");
        }
        for (x, y) in whole.components.iter().zip(&parts.components) {
            assert!((x - y).abs() < 1e-4, "{:?} {:?}", whole.components, parts.components);
        }
    }
}
