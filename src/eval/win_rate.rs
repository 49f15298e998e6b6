//! How often one policy's answers are preferred to another's, or to the answers of the data.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Interval, agreed, group_means};
use super::preference::wilson;

/// The outcome of comparisons, grouped by prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WinRate {
    /// Prompts with at least one verdict.
    pub prompts: usize,
    /// Comparisons with a verdict.
    pub comparisons: usize,
    /// Comparisons without one: the judge's answers could not be read.
    pub unjudged: usize,
    /// Share of comparisons that are won; ties count half. The mean over prompts with its 95 % interval.
    pub win_rate: Option<Interval>,
    /// Comparisons won, tied and lost; a mean of two orders above ½ is won.
    pub outcomes: Outcomes,
}

/// Counts of outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Won.
    pub won: usize,
    /// Tied.
    pub tied: usize,
    /// Lost.
    pub lost: usize,
}

impl WinRate {
    /// Puts verdicts together: for each prompt those of its comparisons, each how far the policy's answer is preferred, in
    /// [0, 1]. Where all prompts have the same share, or there is only one, resampling finds no spread, and the interval is
    /// Wilson's at that share, with a trial for each prompt: samples of a prompt are not independent.
    pub fn of(verdicts: &[Vec<Option<f64>>], seed: u64) -> Self {
        let groups: Vec<Vec<f64>> =
            verdicts.iter().map(|of_prompt| of_prompt.iter().flatten().copied().collect()).collect();
        let means = group_means(groups.iter().map(Vec::as_slice));
        let all = || groups.iter().flatten();
        let count = |holds: fn(f64) -> bool| all().filter(|verdict| holds(**verdict)).count();
        let win_rate = match agreed(&means) {
            None => Interval::of_mean(&means, seed),
            Some(share) => Some(Interval::between(share, wilson(share, means.len() as f64))),
        };
        Self {
            prompts: means.len(),
            comparisons: all().count(),
            unjudged: verdicts.iter().flatten().filter(|verdict| verdict.is_none()).count(),
            win_rate,
            outcomes: Outcomes {
                won: count(|verdict| verdict > 0.5),
                tied: count(|verdict| verdict == 0.5),
                lost: count(|verdict| verdict < 0.5),
            },
        }
    }
}

/// The verdict of a reward on two answers: the greater one wins.
pub fn by_reward(first: f64, second: f64) -> f64 {
    match first.partial_cmp(&second) {
        Some(std::cmp::Ordering::Greater) => 1.0,
        Some(std::cmp::Ordering::Less) => 0.0,
        Some(std::cmp::Ordering::Equal) | None => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_count_alike_whatever_their_number_of_samples() {
        let verdicts = vec![vec![Some(1.0), Some(1.0), Some(0.5), None], vec![Some(0.0)], vec![None]];
        let found = WinRate::of(&verdicts, 1);
        assert_eq!((found.prompts, found.comparisons, found.unjudged), (2, 4, 2));
        // (2.5 / 3 + 0) / 2
        assert!((found.win_rate.unwrap().mean - 2.5 / 6.0).abs() < 1e-12);
        assert_eq!(found.outcomes, Outcomes { won: 2, tied: 1, lost: 1 });
        assert_eq!(WinRate::of(&[], 1).win_rate, None);
    }

    #[test]
    fn unanimous_verdicts_have_an_interval() {
        let found = WinRate::of(&vec![vec![Some(1.0)]; 10], 1).win_rate.unwrap();
        // 10 of 10 by Wilson: n / (n + z²) = 10 / 13.84.
        let (low, high) = found.ends().unwrap();
        assert!(high > 1.0 - 1e-9 && (low - 0.7225).abs() < 1e-3, "{found:?}");
        // Ties: ½ ± z/(2·√(n + z²)).
        let ties = WinRate::of(&vec![vec![Some(0.5)]; 3], 1).win_rate.unwrap();
        let (low, high) = ties.ends().unwrap();
        let half = 1.959_964 / (2.0 * (3.0 + 3.841_459f64).sqrt());
        assert!((low - 0.5 + half).abs() < 1e-6 && (high - 0.5 - half).abs() < 1e-6, "{ties:?}");
    }

    #[test]
    fn equal_shares_of_all_prompts_have_an_interval_too() {
        let shares = |won: usize, of: usize| -> Vec<Option<f64>> {
            (0..of).map(|i| Some(f64::from(u8::from(i < won)))).collect()
        };
        // One prompt with 2 of 8 won is one trial: many samples of it do not say more about other prompts.
        let one = WinRate::of(&[shares(2, 8)], 1).win_rate.unwrap();
        let (low, high) = one.ends().unwrap();
        assert_eq!((one.mean, (low, high)), (0.25, wilson(0.25, 1.0)));
        assert!(low < 0.05 && high > 0.85, "{one:?}");
        // Six prompts of 75 % each.
        let six = WinRate::of(
            &[shares(3, 4), shares(6, 8), shares(3, 4), shares(3, 4), shares(3, 4), shares(3, 4)],
            1,
        );
        let six = six.win_rate.unwrap();
        assert_eq!((six.mean, six.ends()), (0.75, Some(wilson(0.75, 6.0))));
        let found: Interval = serde_json::from_str(&serde_json::to_string(&six).unwrap()).unwrap();
        assert_eq!(found, six);
    }

    #[test]
    fn rewards_decide_by_their_order() {
        assert_eq!([by_reward(2.0, 1.0), by_reward(1.0, 1.0), by_reward(-1.0, 1.0)], [1.0, 0.5, 0.0]);
    }
}
