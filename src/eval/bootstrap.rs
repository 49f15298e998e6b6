//! Intervals of means by resampling (Efron 1979).

use serde::{Deserialize, Serialize};

use crate::random::Stream;

/// Number of samples that are drawn again.
const RESAMPLES: usize = 2000;

/// A mean and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Returns the mean of independent values (one a prompt: average the samples of a prompt first) with its percentile
    /// bootstrap interval; `None` without values. The same values and seed give the same interval.
    pub fn of_mean(values: &[f64], seed: u64) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
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
        Some(Self { mean, low: at(0.025), high: at(0.975) })
    }
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
        assert!((mean - found.low - half).abs() < 0.12 * half, "{found:?} {half}");
        assert!((found.high - mean - half).abs() < 0.12 * half, "{found:?} {half}");
        assert_eq!(Interval::of_mean(&values, 1), Some(found));
        assert_ne!(Interval::of_mean(&values, 2), Some(found));
    }

    #[test]
    fn it_covers_the_mean_in_nearly_95_of_100_samples() {
        let covers = |i: u64| {
            let found = Interval::of_mean(&normal(Stream::new(i, "sample"), 40), 9).unwrap();
            found.low <= 0.0 && 0.0 <= found.high
        };
        let covered = (0..300).filter(|i| covers(*i)).count();
        // 300 · 0.94 = 282; the standard deviation is 4.
        assert!((269..=294).contains(&covered), "{covered} of 300");
    }

    #[test]
    fn few_values() {
        assert_eq!(Interval::of_mean(&[], 1), None);
        assert_eq!(Interval::of_mean(&[2.0], 1), Some(Interval { mean: 2.0, low: 2.0, high: 2.0 }));
        assert_eq!(group_means([&[1.0, 2.0][..], &[], &[5.0]]), [1.5, 5.0]);
    }
}
