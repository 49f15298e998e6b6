//! Intervals of means by resampling (Efron 1979).

use serde::{Deserialize, Serialize};

use crate::random::Stream;

/// Number of samples that are drawn again.
const RESAMPLES: usize = 2000;

/// Values that differ by less than this share of them are the same, but for rounding.
const ROUNDING: f64 = 1e-12;

/// A mean and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// The lower end of the interval; `None` if the values say nothing about it, as a single one does.
    pub low: Option<f64>,
    /// The upper end.
    pub high: Option<f64>,
}

impl Interval {
    /// A mean with both ends of its interval. Ends without a distance are none: they would claim a certainty that is not there.
    pub fn between(mean: f64, (low, high): (f64, f64)) -> Self {
        let is_wide = low < high;
        Self { mean, low: is_wide.then_some(low), high: is_wide.then_some(high) }
    }

    /// A number that is known by definition, not from samples.
    pub fn exact(value: f64) -> Self {
        Self { mean: value, low: Some(value), high: Some(value) }
    }

    /// Both ends, if there is an interval.
    pub fn ends(&self) -> Option<(f64, f64)> {
        self.low.zip(self.high)
    }

    /// Returns the mean of independent values (one a prompt: average the samples of a prompt first) with its percentile
    /// bootstrap interval; `None` without values. The same values and seed give the same interval. Where there is one value, or
    /// all are the same, drawing again finds no spread, and there is no interval.
    pub fn of_mean(values: &[f64], seed: u64) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        if let Some(value) = agreed(values) {
            return Some(Self { mean: value, low: None, high: None });
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let stream = Stream::new(seed, "bootstrap");
        let mut means: Vec<f64> = (0..RESAMPLES)
            .map(|i| {
                let draws = stream.child(i as u64);
                (0..n).map(|k| values[draws.below(k as u64, n)]).sum::<f64>() / n as f64
            })
            .collect();
        means.sort_by(f64::total_cmp);
        let at = |share: f64| means[((RESAMPLES - 1) as f64 * share).round() as usize];
        Some(Self::between(mean, (at(0.025), at(0.975))))
    }
}

/// Returns the value that all values have, but for rounding; `None` if they differ, or there are none.
pub(super) fn agreed(values: &[f64]) -> Option<f64> {
    let first = *values.first()?;
    let is_same = |value: &f64| (value - first).abs() <= ROUNDING * first.abs();
    values.iter().all(is_same).then_some(first)
}

/// Returns the mean of each group, in order; groups without values are left out.
pub fn group_means<'a>(groups: impl IntoIterator<Item = &'a [f64]>) -> Vec<f64> {
    let groups = groups.into_iter().filter(|group| !group.is_empty());
    groups.map(|group| group.iter().sum::<f64>() / group.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of a normal distribution (Box and Muller 1958).
    fn normal(stream: Stream, n: usize) -> Vec<f64> {
        let uniform = |i: usize| f64::from(stream.uniform(i as u64)).max(1e-7);
        (0..n)
            .map(|i| (-2.0 * uniform(2 * i).ln()).sqrt() * (std::f64::consts::TAU * uniform(2 * i + 1)).cos())
            .collect()
    }

    #[test]
    fn the_interval_is_that_of_the_normal_distribution() {
        let values: Vec<f64> = normal(Stream::new(5, "values"), 400).iter().map(|x| 3.0 + 2.0 * x).collect();
        let found = Interval::of_mean(&values, 1).unwrap();
        let mean = values.iter().sum::<f64>() / 400.0;
        let sd = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 400.0).sqrt();
        let half = 1.96 * sd / 20.0;
        assert_eq!(found.mean, mean);
        // The standard error of a 2.5 % quantile of 2,000 means is 6 % of their deviation.
        let (low, high) = found.ends().unwrap();
        assert!((mean - low - half).abs() < 0.12 * half, "{found:?} {half}");
        assert!((high - mean - half).abs() < 0.12 * half, "{found:?} {half}");
        assert_eq!(Interval::of_mean(&values, 1), Some(found));
        assert_ne!(Interval::of_mean(&values, 2), Some(found));
    }

    #[test]
    fn it_covers_the_mean_in_nearly_95_of_100_samples() {
        let covers = |i: u64| {
            let found = Interval::of_mean(&normal(Stream::new(i, "sample"), 40), 9).unwrap();
            found.ends().is_some_and(|(low, high)| low <= 0.0 && 0.0 <= high)
        };
        let covered = (0..300).filter(|i| covers(*i)).count();
        // 300 · 0.94 = 282; the standard deviation is 4.
        assert!((269..=294).contains(&covered), "{covered} of 300");
    }

    #[test]
    fn few_values() {
        assert_eq!(Interval::of_mean(&[], 1), None);
        let without = |mean| Some(Interval { mean, low: None, high: None });
        assert_eq!(Interval::of_mean(&[2.0], 1), without(2.0));
        assert_eq!(Interval::of_mean(&[0.25; 6], 1), without(0.25));
        assert_eq!(Interval::of_mean(&[0.3, 0.1 + 0.2], 1), without(0.3), "they differ by rounding");
        assert_eq!(Interval::of_mean(&[1.0, 2.0], 1).unwrap().ends(), Some((1.0, 2.0)));
        assert_eq!(group_means([&[1.0, 2.0][..], &[], &[5.0]]), [1.5, 5.0]);
    }
}
