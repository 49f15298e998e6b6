//! Whether one set of policies reaches more reward than another for the same divergence from the reference.
//!
//! A set's frontier is the upper concave hull of its points and of the reference: a mixture that draws from π₁ with
//! probability λ and else from π₂ has the reward λr₁ + (1−λ)r₂, and at most the divergence λKL₁ + (1−λ)KL₂, since KL is
//! convex. Beyond its last point it is level: less divergence than is allowed is allowed. Two frontiers are compared from 0 to
//! the smaller of their largest divergences. Intervals come from resampling the prompts, the same for all policies; they say
//! nothing about other seeds of training. Points that are there by luck raise the hull of a set with many of them.

use serde::Serialize;

use super::bootstrap::Interval;
use super::frontier::PerPrompt;
use crate::random::Stream;

/// Divergences at which two frontiers are compared.
const GRID: usize = 40;
/// Number of samples of prompts that are drawn again.
const RESAMPLES: usize = 500;
/// So many prompts that all say the same tell two frontiers apart: by a sign test, six of six have p = 2/64, and five of five
/// p = 2/32, which is above 5 %.
const UNANIMOUS: usize = 6;

/// What the comparison of two frontiers says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The first is above the second in the mean and somewhere, and nowhere below it.
    First,
    /// The other way round.
    Second,
    /// Each is above the other somewhere.
    Cross,
    /// The prompts do not tell them apart.
    NoDifference,
}

/// The comparison of two frontiers. "Above" and "below" mean that a 95 % interval does not contain 0. Where all prompts say the
/// same, the interval has no width; it counts from six prompts on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The largest divergence at which they are compared.
    pub up_to: f64,
    /// The reward of the first minus that of the second, the mean over divergences. It has no interval where all prompts say
    /// the same.
    pub advantage: Interval,
    /// The share of divergences at which the first is above the second.
    pub above: f64,
    /// The share at which it is below.
    pub below: f64,
    /// What that means.
    pub verdict: Verdict,
}

/// Compares the frontiers of two sets of policies, all of them on the same prompts, with the rewards of the reference; `None`
/// without prompts or policies, or if nothing diverges from the reference.
pub fn compare(
    reference: &[f64],
    first: &[&PerPrompt],
    second: &[&PerPrompt],
    seed: u64,
) -> Option<Comparison> {
    let n = reference.len();
    let fits = |it: &&PerPrompt| it.rewards.len() == n && it.kls.len() == n;
    if n == 0 || first.is_empty() || second.is_empty() || !first.iter().chain(second).all(fits) {
        return None;
    }
    let all: Vec<usize> = (0..n).collect();
    let largest = |set: &[&PerPrompt]| set.iter().map(|it| mean(&it.kls, &all)).fold(0.0, f64::max);
    let up_to = largest(first).min(largest(second));
    if up_to <= 0.0 {
        return None;
    }
    let differences = |prompts: &[usize]| -> Vec<f64> {
        let hulls = [first, second].map(|set| Hull::of(mean(reference, prompts), set, prompts));
        let at = |i: usize| up_to * (i + 1) as f64 / GRID as f64;
        (0..GRID).map(|i| hulls[0].at(at(i)) - hulls[1].at(at(i))).collect()
    };
    let found = differences(&all);
    let stream = Stream::new(seed, "dominance");
    let resampled: Vec<Vec<f64>> = (0..RESAMPLES)
        .map(|i| {
            let draws = stream.child(i as u64);
            differences(&(0..n).map(|k| draws.below(k as u64, n)).collect::<Vec<_>>())
        })
        .collect();
    let average = |values: &[f64]| values.iter().sum::<f64>() / GRID as f64;
    let (low, high) = ends(resampled.iter().map(|values| average(values)).collect());
    let advantage = Interval::between(average(&found), (low, high));
    let at_each: Vec<(f64, f64)> =
        (0..GRID).map(|i| ends(resampled.iter().map(|values| values[i]).collect())).collect();
    let counts = |(low, high): &(f64, f64)| low < high || n >= UNANIMOUS;
    let share = |holds: fn(&(f64, f64)) -> bool| {
        at_each.iter().filter(|ends| counts(ends) && holds(ends)).count() as f64 / GRID as f64
    };
    let (above, below) = (share(|ends| ends.0 > 0.0), share(|ends| ends.1 < 0.0));
    let verdict = match (above > 0.0, below > 0.0) {
        (true, true) => Verdict::Cross,
        (true, false) if low > 0.0 => Verdict::First,
        (false, true) if high < 0.0 => Verdict::Second,
        (true, false) | (false, true) | (false, false) => Verdict::NoDifference,
    };
    Some(Comparison { up_to, advantage, above, below, verdict })
}

fn mean(values: &[f64], prompts: &[usize]) -> f64 {
    prompts.iter().map(|i| values[*i]).sum::<f64>() / prompts.len().max(1) as f64
}

/// The ends of the middle 95 %.
fn ends(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    (at(0.025), at(0.975))
}

/// The upper concave hull of points: corners with growing divergence and reward.
struct Hull(Vec<(f64, f64)>);

impl Hull {
    fn of(reference: f64, set: &[&PerPrompt], prompts: &[usize]) -> Self {
        // An estimate below 0 is one of 0.
        let mut points: Vec<(f64, f64)> =
            set.iter().map(|it| (mean(&it.kls, prompts).max(0.0), mean(&it.rewards, prompts))).collect();
        points.push((0.0, reference));
        points.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let mut corners: Vec<(f64, f64)> = Vec::new();
        for point in points {
            if corners.last().is_some_and(|last| point.1 <= last.1) {
                continue;
            }
            while let [.., a, b] = corners[..] {
                // b is a corner if it is above the line from a to the point.
                let is_above = (b.1 - a.1) * (point.0 - a.0) > (point.1 - a.1) * (b.0 - a.0);
                if is_above {
                    break;
                }
                corners.pop();
            }
            corners.push(point);
        }
        Self(corners)
    }

    /// The reward at a divergence.
    fn at(&self, kl: f64) -> f64 {
        let after = self.0.partition_point(|corner| corner.0 <= kl);
        match (after.checked_sub(1).map(|i| self.0[i]), self.0.get(after)) {
            (Some(from), Some(to)) => from.1 + (to.1 - from.1) * (kl - from.0) / (to.0 - from.0),
            (Some(only), None) | (None, Some(&only)) => only.1,
            (None, None) => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A policy whose prompts scatter around a point by up to `by` in both.
    fn around(name: &str, kl: f64, reward: f64, by: f64) -> PerPrompt {
        let stream = Stream::new(9, name);
        let scattered = |mean: f64, child: u64| -> Vec<f64> {
            let draws = stream.child(child);
            (0..200).map(|i| mean + by * (2.0 * f64::from(draws.uniform(i)) - 1.0)).collect()
        };
        PerPrompt { kls: scattered(kl, 0), rewards: scattered(reward, 1) }
    }

    #[test]
    fn a_hull_is_concave_and_level_behind_its_last_corner() {
        let at = |kl, reward| around("x", kl, reward, 0.0);
        let set = [at(1.0, 0.6), at(2.0, 0.62), at(3.0, 0.9), at(4.0, 0.8)];
        let hull = Hull::of(0.5, &set.iter().collect::<Vec<_>>(), &[0]);
        // (2, 0.62) is below the line from (0, 0.5) to (3, 0.9), and so is (1, 0.6).
        assert_eq!(hull.0, [(0.0, 0.5), (3.0, 0.9)]);
        assert!((hull.at(1.5) - 0.7).abs() < 1e-12);
        assert_eq!((hull.at(0.0), hull.at(9.0)), (0.5, 0.9));
    }

    #[test]
    fn the_better_set_dominates_and_equal_ones_do_not() {
        let reference = vec![0.5; 200];
        let (better, worse) = (around("a", 2.0, 0.9, 0.3), around("b", 4.0, 0.9, 0.3));
        let found = compare(&reference, &[&better], &[&worse], 1).unwrap();
        assert_eq!(found.verdict, Verdict::First, "{found:?}");
        // Up to KL 2 they rise by 0.2 and by 0.1 a nat: on the grid the difference is 0.1·KL, with the mean 0.1025.
        assert!((found.up_to - 2.0).abs() < 0.1 && (found.advantage.mean - 0.1025).abs() < 0.02, "{found:?}");
        assert_eq!(compare(&reference, &[&worse], &[&better], 1).unwrap().verdict, Verdict::Second);
        let twin = around("c", 2.0, 0.9, 0.3);
        assert_eq!(compare(&reference, &[&better], &[&twin], 1).unwrap().verdict, Verdict::NoDifference);
        assert_eq!(compare(&reference, &[&better], &[&better], 1).unwrap().above, 0.0);
    }

    #[test]
    fn frontiers_that_cross_are_said_to() {
        let reference = vec![0.5; 200];
        let (early, late) = (around("a", 1.0, 0.7, 0.05), around("b", 3.0, 1.0, 0.05));
        let far = around("c", 3.0, 0.7, 0.05);
        let found = compare(&reference, &[&early, &far], &[&late], 1).unwrap();
        assert_eq!(found.verdict, Verdict::Cross, "{found:?}");
    }

    #[test]
    fn few_prompts_that_say_the_same_tell_nothing_apart() {
        let level = |n: usize, reward: f64| PerPrompt { rewards: vec![reward; n], kls: vec![2.0; n] };
        for (n, verdict) in
            [(1, Verdict::NoDifference), (UNANIMOUS - 1, Verdict::NoDifference), (UNANIMOUS, Verdict::First)]
        {
            let found = compare(&vec![0.0; n], &[&level(n, 1.0)], &[&level(n, 0.5)], 1).unwrap();
            assert_eq!((found.verdict, found.advantage.ends()), (verdict, None), "{n}: {found:?}");
            assert!(found.advantage.mean > 0.2 && (found.above > 0.0) == (n >= UNANIMOUS), "{found:?}");
        }
    }

    #[test]
    fn nothing_to_compare() {
        let still = around("a", 0.0, 0.5, 0.0);
        assert_eq!(compare(&[0.5; 200], &[&still], &[&still], 1), None);
        assert_eq!(compare(&[0.5; 200], &[], &[&still], 1), None);
        assert_eq!(compare(&[0.5; 3], &[&still], &[&still], 1), None);
    }
}
