//! Votes as noisy comparisons: each question has a strength of preference, each annotator a reliability.
//!
//! Bradley-Terry (1952) with annotators (Chen et al. 2013, Crowd-BT): annotator k prefers the first answer of question i with
//! probability η_k·σ(θ_i) + (1 − η_k)·σ(−θ_i), where η_k ≥ ½ is how often k votes as meant. A tie is half a vote for each side.
//! θ_i has the logistic prior of one vote for each side, and η_k that of three votes as meant and one against, so that a
//! question with one vote has no certain label and an annotator with few votes is trusted a little. Both are estimated by
//! expectation and maximisation.

use serde::Serialize;

use super::votes::Vote;

/// Rounds; estimates of a thousand votes do not change after some fifty.
const ROUNDS: usize = 200;

/// Votes as meant, and against, that an annotator begins with.
const PRIOR: (f64, f64) = (3.0, 1.0);

/// Votes for each side that a question begins with.
const SIDE: f64 = 0.5;

/// What is known of an annotator.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Annotator {
    /// The name.
    pub name: String,
    /// Votes on pairs, without those put aside.
    pub votes: usize,
    /// How often the annotator votes as meant; ½ is a coin.
    pub reliability: f64,
}

/// Strengths and reliabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Reliability {
    /// The probability that the first answer of each question is preferred; ½ without votes.
    pub preferred: Vec<f64>,
    /// η of each annotator.
    pub annotators: Vec<f64>,
}

impl Reliability {
    /// Estimates both from votes on `questions` questions by `annotators` people.
    pub fn of(votes: &[Vote], questions: usize, annotators: usize) -> Self {
        let start = PRIOR.0 / (PRIOR.0 + PRIOR.1);
        let mut found = Self { preferred: vec![0.5; questions], annotators: vec![start; annotators] };
        for _ in 0..ROUNDS {
            let mut sides = vec![(SIDE, SIDE); questions];
            let mut meant = vec![(PRIOR.0, PRIOR.1); annotators];
            for vote in votes {
                let (Some(share), Some(p), Some(eta)) = (
                    vote.choice.share(),
                    found.preferred.get(vote.question).copied(),
                    found.annotators.get(vote.annotator).copied(),
                ) else {
                    continue;
                };
                // Each half of a tie is a vote of its own.
                for (weight, first) in [(share, true), (1.0 - share, false)] {
                    let agrees = if first { p } else { 1.0 - p };
                    let as_meant = eta * agrees / (eta * agrees + (1.0 - eta) * (1.0 - agrees));
                    let side = &mut sides[vote.question];
                    let for_first = if first { as_meant } else { 1.0 - as_meant };
                    side.0 += weight * for_first;
                    side.1 += weight * (1.0 - for_first);
                    // A tie says nothing about who is reliable.
                    if share != 0.5 {
                        meant[vote.annotator].0 += weight * as_meant;
                        meant[vote.annotator].1 += weight * (1.0 - as_meant);
                    }
                }
            }
            found.preferred = sides.iter().map(|(first, second)| first / (first + second)).collect();
            // Below ½ an annotator would be believed to mean the opposite.
            found.annotators =
                meant.iter().map(|(as_meant, against)| (as_meant / (as_meant + against)).max(0.5)).collect();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::votes::Choice;
    use super::*;
    use crate::random::Stream;

    fn vote(question: usize, annotator: usize, choice: Choice) -> Vote {
        Vote { question, annotator, choice }
    }

    #[test]
    fn one_vote_is_no_certainty_and_more_agree_more() {
        let certain = |votes: usize| {
            let votes: Vec<Vote> = (0..votes).map(|k| vote(0, k, Choice::First)).collect();
            Reliability::of(&votes, 1, votes.len()).preferred[0]
        };
        assert!(certain(1) > 0.6 && certain(1) < 0.95, "{}", certain(1));
        assert!(certain(3) > certain(1) && certain(3) < 1.0);
        let none = Reliability::of(&[vote(0, 0, Choice::Skip)], 2, 1);
        assert_eq!((none.preferred, none.annotators), (vec![0.5; 2], vec![0.75]));
        let tied = Reliability::of(&[vote(0, 0, Choice::Equal), vote(0, 1, Choice::Equal)], 1, 2);
        assert!((tied.preferred[0] - 0.5).abs() < 1e-9);
    }

    #[test]
    fn the_reliable_outvote_the_others() {
        // 200 questions; three annotators err in 5, 10 and 45 of 100 votes.
        let stream = Stream::new(3, "votes");
        let truth: Vec<bool> = (0..200).map(|i| stream.uniform(i) < 0.5).collect();
        let errors = [0.05, 0.10, 0.45];
        let votes: Vec<Vote> = (0..600usize)
            .map(|n| {
                let (question, annotator) = (n / 3, n % 3);
                let is_wrong = f64::from(stream.child(1).uniform(n as u64)) < errors[annotator];
                vote(
                    question,
                    annotator,
                    if truth[question] != is_wrong { Choice::First } else { Choice::Second },
                )
            })
            .collect();
        let found = Reliability::of(&votes, 200, 3);
        // The standard error of a share of 200 is 0.02 to 0.035.
        for (found, error) in found.annotators.iter().zip(errors) {
            assert!((found - (1.0 - error)).abs() < 0.09, "{found} for {}", 1.0 - error);
        }
        let right = truth.iter().zip(&found.preferred).filter(|(truth, p)| **truth == (**p > 0.5)).count();
        assert!(right >= 184, "{right} of 200");
    }
}
