//! Which question comes next.

use crate::random::Stream;

/// How questions are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The least |Δ|: the policy does not know which answer is better (uncertainty sampling, Lewis and Gale 1994).
    Uncertainty,
    /// The greatest distance between what was voted and what the policy believes, or among votes; questions without votes
    /// come by uncertainty.
    Disagreement,
    /// In a random order.
    Random,
}

/// A question that the annotator has not answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Open {
    /// Its index.
    pub question: usize,
    /// The policy's margin Δ of the first answer over the second; 0 without an adapter.
    pub margin: f64,
    /// The mean of the votes so far, in [0, 1], if there are any.
    pub voted: Option<f64>,
}

impl Open {
    /// How far votes and policy, or votes among themselves, disagree; in [0, 1].
    fn disagreement(&self) -> f64 {
        let believed = 1.0 / (1.0 + (-self.margin).exp());
        match self.voted {
            // Votes on both sides have a mean near ½: 2·min(v, 1 − v).
            Some(voted) => (2.0 * voted.min(1.0 - voted)).max((voted - believed).abs()),
            None => 0.0,
        }
    }
}

/// Returns the question that comes next; `None` if none is open. Equal ones come in the order that `seed` gives.
pub fn next(strategy: Strategy, open: &[Open], seed: u64) -> Option<usize> {
    let order = Stream::new(seed, "questions");
    let tie = |it: &Open| order.word(it.question as u64);
    let best = match strategy {
        Strategy::Random => open.iter().min_by_key(|it| tie(it)),
        Strategy::Uncertainty => {
            open.iter().min_by(|a, b| a.margin.abs().total_cmp(&b.margin.abs()).then(tie(a).cmp(&tie(b))))
        }
        Strategy::Disagreement => open.iter().min_by(|a, b| {
            let by_disagreement = b.disagreement().total_cmp(&a.disagreement());
            by_disagreement.then(a.margin.abs().total_cmp(&b.margin.abs())).then(tie(a).cmp(&tie(b)))
        }),
    };
    best.map(|it| it.question)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(question: usize, margin: f64, voted: Option<f64>) -> Open {
        Open { question, margin, voted }
    }

    #[test]
    fn uncertain_questions_come_first() {
        let all = [open(0, 3.0, None), open(1, -0.1, None), open(2, 0.5, None)];
        assert_eq!(next(Strategy::Uncertainty, &all, 1), Some(1));
        assert_eq!(next(Strategy::Uncertainty, &[all[0], all[2]], 1), Some(2));
        assert_eq!(next(Strategy::Uncertainty, &[], 1), None);
    }

    #[test]
    fn so_do_those_in_conflict() {
        // Votes on both sides; a vote against the policy; one that agrees; none.
        let all =
            [open(0, 0.0, None), open(1, 2.0, Some(1.0)), open(2, 2.0, Some(0.0)), open(3, 0.0, Some(0.5))];
        assert_eq!(next(Strategy::Disagreement, &all, 1), Some(3));
        assert_eq!(next(Strategy::Disagreement, &all[..3], 1), Some(2));
        assert_eq!(next(Strategy::Disagreement, &all[..2], 1), Some(1));
    }

    #[test]
    fn a_random_order_is_that_of_its_seed() {
        let all: Vec<Open> = (0..20).map(|i| open(i, 0.0, None)).collect();
        let order = |seed| {
            let mut left = all.clone();
            let mut order = Vec::new();
            while let Some(question) = next(Strategy::Random, &left, seed) {
                left.retain(|it| it.question != question);
                order.push(question);
            }
            order
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        assert_ne!(order(1), (0..20).collect::<Vec<_>>());
    }
}
