//! What training did to the likelihood of the answers. DPO only asks for a greater margin: the chosen answer may become less
//! likely as long as the rejected one loses more (Razin et al. 2024, arXiv 2410.08847).

use serde::Serialize;

/// A pair's log-probs in nats: under policy and reference, and its tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLogps {
    /// log π_θ and log π_ref of the chosen answer.
    pub chosen: (f64, f64),
    /// The same of the rejected one.
    pub rejected: (f64, f64),
    /// Tokens of the chosen answer.
    pub chosen_tokens: usize,
    /// Tokens of the rejected one.
    pub rejected_tokens: usize,
}

impl PairLogps {
    /// log π_θ − log π_ref of both.
    fn moved(&self) -> (f64, f64) {
        (self.chosen.0 - self.chosen.1, self.rejected.0 - self.rejected.1)
    }

    /// The difference of the log-ratios: the reward margin is β times it.
    pub fn margin(&self) -> f64 {
        let (chosen, rejected) = self.moved();
        chosen - rejected
    }
}

/// Means over pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Displacement {
    /// Number of pairs.
    pub pairs: usize,
    /// Mean log π_θ − log π_ref of the chosen answers, in nats.
    pub chosen: f64,
    /// The same of the rejected answers.
    pub rejected: f64,
    /// The first per token.
    pub chosen_per_token: f64,
    /// The second per token.
    pub rejected_per_token: f64,
    /// Share of pairs whose chosen answer became less likely.
    pub chosen_fell: f64,
    /// Share of pairs whose rejected answer became less likely.
    pub rejected_fell: f64,
    /// Share of pairs both of whose answers became less likely: the probability went elsewhere.
    pub both_fell: f64,
    /// Share of pairs whose margin grew although the chosen answer became less likely.
    pub grew_by_falling: f64,
}

impl Displacement {
    /// Returns the means over pairs; all are 0 without any.
    pub fn of(pairs: &[PairLogps]) -> Self {
        let n = pairs.len().max(1) as f64;
        let sum = |value: fn(&PairLogps) -> f64| pairs.iter().map(value).sum::<f64>();
        let share =
            |holds: fn(&PairLogps) -> bool| pairs.iter().filter(|pair| holds(pair)).count() as f64 / n;
        let (chosen, rejected) = (sum(|pair| pair.moved().0), sum(|pair| pair.moved().1));
        Self {
            pairs: pairs.len(),
            chosen: chosen / n,
            rejected: rejected / n,
            chosen_per_token: chosen / sum(|pair| pair.chosen_tokens as f64).max(1.0),
            rejected_per_token: rejected / sum(|pair| pair.rejected_tokens as f64).max(1.0),
            chosen_fell: share(|pair| pair.moved().0 < 0.0),
            rejected_fell: share(|pair| pair.moved().1 < 0.0),
            both_fell: share(|pair| pair.moved().0 < 0.0 && pair.moved().1 < 0.0),
            grew_by_falling: share(|pair| pair.moved().0 < 0.0 && pair.margin() > 0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_shares_by_hand() {
        let pair = |chosen: f64, rejected: f64| PairLogps {
            chosen: (chosen - 10.0, -10.0),
            rejected: (rejected - 20.0, -20.0),
            chosen_tokens: 2,
            rejected_tokens: 5,
        };
        let found = Displacement::of(&[pair(1.0, -3.0), pair(-1.0, -4.0), pair(-2.0, -1.0), pair(0.0, 2.0)]);
        assert_eq!((found.pairs, found.chosen, found.rejected), (4, -0.5, -1.5));
        assert!(
            (found.chosen_per_token + 0.25).abs() < 1e-12 && (found.rejected_per_token + 0.3).abs() < 1e-12
        );
        assert_eq!((found.chosen_fell, found.rejected_fell, found.both_fell), (0.5, 0.75, 0.5));
        assert_eq!(found.grew_by_falling, 0.25);
        assert_eq!(Displacement::of(&[]), Displacement::default());
    }
}
