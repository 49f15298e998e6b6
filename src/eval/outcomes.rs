//! Pairs one by one: which are most wrong, and whether an answer's length decides.

use crate::objective::{Objective, Role, Scored};

/// Groups by length, at most, and pairs of a group, at least.
const GROUPS: usize = 5;
const FEWEST: usize = 8;

/// A pair after an evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The number of its record.
    pub index: usize,
    /// Reward of the chosen minus that of the rejected answer; `None` if the loss has no rewards.
    pub reward_margin: Option<f64>,
    /// The same difference of log-probs, in nats.
    pub logp_margin: f64,
    /// Scored tokens of the chosen answer.
    pub chosen_tokens: usize,
    /// Scored tokens of the rejected answer.
    pub rejected_tokens: usize,
}

impl Outcome {
    /// The pairs of a batch whose first record has the number `first`. A pair whose label says that the rejected answer is
    /// the better one, or that neither is, is left out.
    pub(super) fn of<'a>(
        first: usize,
        scored: &'a [Scored],
        objective: &'a Objective,
    ) -> impl Iterator<Item = Self> + 'a {
        scored.chunk_by(|a, b| a.group == b.group).filter_map(move |pair| {
            let [chosen @ Scored { role: Role::Chosen, .. }, rejected, ..] = pair else { return None };
            let reward = || Some(objective.reward(chosen)? - objective.reward(rejected)?);
            (chosen.label > 0.5).then(|| Self {
                index: first + chosen.group,
                reward_margin: reward(),
                logp_margin: chosen.logp - rejected.logp,
                chosen_tokens: chosen.tokens,
                rejected_tokens: rejected.tokens,
            })
        })
    }

    /// What decides whether the pair is right: it is, if this is greater than 0.
    fn margin(&self, by_reward: bool) -> f64 {
        self.reward_margin.filter(|_| by_reward).unwrap_or(self.logp_margin)
    }

    /// Tokens by which the chosen answer is longer.
    fn longer(&self) -> i64 {
        self.chosen_tokens as i64 - self.rejected_tokens as i64
    }
}

/// All pairs of an evaluation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcomes {
    /// In the order of the records.
    pub pairs: Vec<Outcome>,
}

impl Outcomes {
    /// Whether rewards decide. Before the first step all of them are 0, so log-probs do.
    pub fn by_reward(&self) -> bool {
        self.pairs.iter().any(|pair| pair.reward_margin.is_some_and(|margin| margin != 0.0))
    }

    /// Number of pairs that are right.
    pub fn right(&self) -> usize {
        let by_reward = self.by_reward();
        self.pairs.iter().filter(|pair| pair.margin(by_reward) > 0.0).count()
    }

    /// The `most` pairs with the least margins, the least first; none that is right.
    pub fn wrong(&self, most: usize) -> Vec<Outcome> {
        let by_reward = self.by_reward();
        let mut wrong: Vec<Outcome> =
            self.pairs.iter().filter(|pair| pair.margin(by_reward) <= 0.0).copied().collect();
        wrong.sort_by(|a, b| a.margin(by_reward).total_cmp(&b.margin(by_reward)).then(a.index.cmp(&b.index)));
        wrong.truncate(most);
        wrong
    }

    /// Least and greatest difference of lengths of groups of about the same size, with the number of their pairs and of
    /// those that are right. Pairs with the same difference are in the same group.
    pub fn by_length(&self) -> Vec<(i64, i64, usize, usize)> {
        let by_reward = self.by_reward();
        let mut pairs: Vec<(i64, bool)> =
            self.pairs.iter().map(|pair| (pair.longer(), pair.margin(by_reward) > 0.0)).collect();
        pairs.sort_unstable();
        let groups = (pairs.len() / FEWEST).clamp(1, GROUPS);
        let mut found = Vec::new();
        let mut from = 0;
        for group in 1..=groups {
            let end = group * pairs.len() / groups;
            // The group goes on to the last pair with the difference at its end.
            let end = match pairs.get(end.wrapping_sub(1)) {
                Some(&(last, _)) => pairs.partition_point(|(longer, _)| *longer <= last),
                None => end,
            };
            if let [(low, _), ..] = &pairs[from..end.max(from)] {
                let high = pairs[end - 1].0;
                let right = pairs[from..end].iter().filter(|(_, right)| *right).count();
                found.push((*low, high, end - from, right));
                from = end;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(index: usize, reward: f64, logp: f64, longer: usize) -> Outcome {
        Outcome {
            index,
            reward_margin: Some(reward),
            logp_margin: logp,
            chosen_tokens: longer,
            rejected_tokens: 10,
        }
    }

    #[test]
    fn the_most_wrong_come_first_and_log_probs_decide_without_rewards() {
        let found = Outcomes {
            pairs: vec![
                pair(0, -1.0, 2.0, 5),
                pair(1, 3.0, -1.0, 5),
                pair(2, -4.0, 1.0, 5),
                pair(3, 0.0, 1.0, 5),
            ],
        };
        assert_eq!(found.wrong(2).iter().map(|pair| pair.index).collect::<Vec<_>>(), [2, 0]);
        assert_eq!((found.right(), found.wrong(9).len()), (1, 3));
        let before = Outcomes {
            pairs: found.pairs.iter().map(|p| Outcome { reward_margin: Some(0.0), ..*p }).collect(),
        };
        assert_eq!(before.wrong(9).iter().map(|pair| pair.index).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn groups_have_whole_differences_and_every_pair() {
        // 23 pairs are two groups: the first 11 would end within the pairs that are 3 tokens longer.
        let pairs = (0..23)
            .map(|i| pair(i, if i < 13 { 1.0 } else { -1.0 }, 0.0, 10 + [0, 3, 3, 9][i / 6]))
            .collect();
        let found = Outcomes { pairs }.by_length();
        assert_eq!(found, [(0, 3, 18, 13), (9, 9, 5, 0)]);
        assert!(Outcomes::default().by_length().is_empty());
        let same = Outcomes { pairs: (0..40).map(|i| pair(i, 1.0, 0.0, 10)).collect() };
        assert_eq!(same.by_length(), [(0, 0, 40, 40)]);
    }
}
