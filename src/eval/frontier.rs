//! Expected reward against KL(π_θ ‖ π_ref), both on samples of the policy (Rafailov et al. 2023, arXiv 2305.18290, figure 2).

use serde::{Deserialize, Serialize};

use super::bootstrap::{Interval, group_means};

/// A sample of a policy at temperature 1: its reward, and its log-probs in nats, with the end-of-text token if it was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawn {
    /// The reward.
    pub reward: f64,
    /// log π_θ.
    pub logp: f64,
    /// log π_ref.
    pub ref_logp: f64,
}

impl Drawn {
    /// log π_θ − log π_ref: its mean over samples of π_θ is the divergence.
    pub fn log_ratio(&self) -> f64 {
        self.logp - self.ref_logp
    }

    /// π_ref/π_θ − 1 − log(π_ref/π_θ), which has the same mean, is never negative, and varies less near 0 (Schulman 2020,
    /// <http://joschu.net/blog/kl-approx.html>, k3). Far from 0 few samples with a large ratio decide it.
    pub fn k3(&self) -> f64 {
        let log = -self.log_ratio();
        // Near 0 the three terms cancel.
        if log.abs() < 1e-4 { log * log * (0.5 + log / 6.0) } else { log.exp_m1() - log }
    }
}

/// What each prompt says about a policy: means over its samples, one number a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PerPrompt {
    /// The mean reward.
    pub rewards: Vec<f64>,
    /// The mean of log π_θ − log π_ref.
    pub kls: Vec<f64>,
}

impl PerPrompt {
    /// Averages the samples of each prompt.
    pub fn of(drawn: &[Vec<Drawn>]) -> Self {
        let drawn: Vec<&Vec<Drawn>> = drawn.iter().filter(|group| !group.is_empty()).collect();
        let means = |value: fn(&Drawn) -> f64| {
            drawn.iter().map(|group| group.iter().map(value).sum::<f64>() / group.len() as f64).collect()
        };
        Self { rewards: means(|drawn| drawn.reward), kls: means(Drawn::log_ratio) }
    }
}

/// A policy's place in the plane of divergence and reward.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// The series that it belongs to, such as the runs of one loss; empty: none.
    pub series: String,
    /// Prompts.
    pub prompts: usize,
    /// Samples.
    pub samples: usize,
    /// Mean reward.
    pub reward: Interval,
    /// KL(π_θ ‖ π_ref) in nats per completion: the mean of log π_θ − log π_ref.
    pub kl: Interval,
    /// The same by k3, a check on the first where it is small; `None` of best-of-N, whose divergence is not that of samples.
    pub kl_k3: Option<Interval>,
}

impl Point {
    /// Returns the point of samples, grouped by prompt; `None` without samples. Intervals come from resampling prompts, and a
    /// single prompt has none.
    pub fn of(name: impl Into<String>, drawn: &[Vec<Drawn>], seed: u64) -> Option<Self> {
        let groups: Vec<Vec<f64>> =
            drawn.iter().map(|group| group.iter().map(Drawn::k3).collect::<Vec<_>>()).collect();
        let k3 = group_means(groups.iter().map(Vec::as_slice));
        let samples = drawn.iter().map(Vec::len).sum();
        let point = Self::of_means(name, &PerPrompt::of(drawn), samples, seed)?;
        Some(Self { kl_k3: Some(Interval::of_mean(&k3, seed)?), ..point })
    }

    /// Returns the point of means over `samples` samples in all; `None` without prompts.
    pub fn of_means(name: impl Into<String>, means: &PerPrompt, samples: usize, seed: u64) -> Option<Self> {
        Some(Self {
            name: name.into(),
            series: String::new(),
            prompts: means.rewards.len(),
            samples,
            reward: Interval::of_mean(&means.rewards, seed)?,
            kl: Interval::of_mean(&means.kls, seed)?,
            kl_k3: None,
        })
    }
}

/// Returns which points are on the frontier: no other has at least as much reward for at most as much divergence, and more of
/// one or less of the other.
pub fn efficient(points: &[Point]) -> Vec<bool> {
    let better = |a: &Point, b: &Point| {
        let (reward, kl) = (a.reward.mean - b.reward.mean, b.kl.mean - a.kl.mean);
        reward >= 0.0 && kl >= 0.0 && (reward > 0.0 || kl > 0.0)
    };
    points.iter().map(|point| !points.iter().any(|other| better(other, point))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    /// A distribution over sequences of up to three of two tokens and an end, by Markov chain: from the start, from 0, from 1.
    struct Chain([[f64; 3]; 3]);

    /// The token that ends a sequence.
    const END: usize = 2;

    impl Chain {
        /// The log-prob of a sequence, with its end if it has one.
        fn logp(&self, sequence: &[usize]) -> f64 {
            let before = std::iter::once(2).chain(sequence.iter().copied());
            before
                .zip(sequence)
                .map(|(from, to)| self.0[if from == 2 { 0 } else { from + 1 }][*to].ln())
                .sum()
        }

        fn draw(&self, stream: Stream) -> Vec<usize> {
            let mut sequence = Vec::new();
            while sequence.len() < 3 && sequence.last() != Some(&END) {
                let row = self.0[sequence.last().map_or(0, |last| last + 1)];
                let mut left = f64::from(stream.uniform(sequence.len() as u64));
                let token = row.iter().position(|p| {
                    left -= p;
                    left < 0.0
                });
                sequence.push(token.unwrap_or(END));
            }
            sequence
        }
    }

    /// All sequences that end, or have three tokens.
    fn all() -> Vec<Vec<usize>> {
        let mut found = vec![vec![END]];
        for a in 0..2 {
            found.push(vec![a, END]);
            for b in 0..2 {
                found.extend((0..3).map(|c| vec![a, b, c]));
            }
            // a, b, END is among the sequences of three.
        }
        found
    }

    const POLICY: Chain = Chain([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]);
    const REFERENCE: Chain = Chain([[0.3, 0.5, 0.2], [0.4, 0.3, 0.3], [0.5, 0.25, 0.25]]);

    #[test]
    fn estimates_agree_with_exact_enumeration() {
        let p: Vec<f64> = all().iter().map(|s| POLICY.logp(s).exp()).collect();
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let exact: f64 = all().iter().zip(&p).map(|(s, p)| p * (p.ln() - REFERENCE.logp(s))).sum();
        let ones = |s: &[usize]| s.iter().filter(|token| **token == 1).count() as f64;
        let reward: f64 = all().iter().zip(&p).map(|(s, p)| p * ones(s)).sum();
        let group = |i: u64| -> Vec<Drawn> {
            let draw = |k: u64| {
                let s = POLICY.draw(Stream::new(3, "draw").child(i).child(k));
                Drawn { reward: ones(&s), logp: POLICY.logp(&s), ref_logp: REFERENCE.logp(&s) }
            };
            (0..10).map(draw).collect()
        };
        let found = Point::of("p", &(0..2000).map(group).collect::<Vec<_>>(), 1).unwrap();
        assert_eq!((found.prompts, found.samples), (2000, 20_000));
        let k3 = found.kl_k3.unwrap();
        for (interval, expected) in [(found.kl, exact), (k3, exact), (found.reward, reward)] {
            let (low, high) = interval.ends().unwrap();
            let half = (high - low) / 2.0;
            // Two half-widths are four standard errors.
            assert!((interval.mean - expected).abs() < 2.0 * half && half < 0.02, "{interval:?} {expected}");
        }
        // Near 0 the second estimate is the sharper one.
        let width = |interval: Interval| interval.ends().map(|(low, high)| high - low).unwrap();
        assert!(width(k3) < width(found.kl));
        assert!(exact > 0.1, "{exact}");
    }

    #[test]
    fn k3_is_exact_in_the_mean_and_never_negative() {
        let exact = |value: fn(&Drawn) -> f64| -> f64 {
            let drawn =
                |s: &Vec<usize>| Drawn { reward: 0.0, logp: POLICY.logp(s), ref_logp: REFERENCE.logp(s) };
            all().iter().map(|s| POLICY.logp(s).exp() * value(&drawn(s))).sum()
        };
        assert!((exact(Drawn::k3) - exact(Drawn::log_ratio)).abs() < 1e-12);
        for ratio in [-3.0, -1e-3, -1e-5, 0.0, 1e-9, 1e-4, 2.0f64] {
            let drawn = Drawn { reward: 0.0, logp: ratio, ref_logp: 0.0 };
            let plain = (-ratio).exp() - 1.0 + ratio;
            assert!(drawn.k3() >= 0.0 && (drawn.k3() - plain).abs() < 1e-12, "{ratio}");
        }
    }

    #[test]
    fn one_prompt_says_nothing_about_others() {
        let drawn = |reward| Drawn { reward, logp: -1.0, ref_logp: -reward };
        let found = Point::of("p", &[vec![drawn(1.0), drawn(3.0), drawn(2.0)]], 1).unwrap();
        assert_eq!((found.prompts, found.samples, found.reward.mean), (1, 3, 2.0));
        assert_eq!([found.reward, found.kl, found.kl_k3.unwrap()].map(|it| it.ends()), [None; 3]);
        let more = Point::of("p", &[vec![drawn(1.0)], vec![drawn(3.0)]], 1).unwrap();
        assert_eq!(more.reward.ends(), Some((1.0, 3.0)));
    }

    #[test]
    fn points_that_others_beat_are_not_on_the_frontier() {
        let at = |kl: f64, reward: f64| {
            let one = Interval::exact;
            Point {
                name: String::new(),
                series: String::new(),
                prompts: 1,
                samples: 1,
                reward: one(reward),
                kl: one(kl),
                kl_k3: None,
            }
        };
        let points = [at(0.0, 0.2), at(1.0, 0.5), at(2.0, 0.5), at(2.0, 0.9), at(1.0, 0.5)];
        assert_eq!(efficient(&points), [true, true, false, true, true]);
    }
}
