//! Votes as noisy comparisons: each question has a strength of preference, each annotator a reliability.
//!
//! Bradley-Terry (1952) with annotators, after Crowd-BT (Chen et al. 2013): annotator k prefers the first answer of question i
//! with probability σ(a_k·θ_i). A tie is half a vote for each side. θ_i ~ N(0, 2²), so that a question with one vote has no
//! certain label; a_k ~ N(1, ½²) and a_k ≥ 0, so that an annotator with few votes is trusted a little, and nobody is believed
//! to mean the opposite. Both are estimated by their most probable values, in turn by Newton's steps.

use serde::Serialize;

use super::votes::Vote;

/// Rounds; estimates of a thousand votes do not change after some fifty.
const ROUNDS: usize = 100;

/// The deviation of strengths.
const STRENGTH: f64 = 2.0;

/// The deviation of reliabilities around 1.
const TRUST: f64 = 0.5;

/// What is known of an annotator.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Annotator {
    /// The name.
    pub name: String,
    /// Votes on pairs, without those put aside.
    pub votes: usize,
    /// How often the annotator prefers the better answer of a question, on average; ½ is a coin.
    pub reliability: f64,
}

/// Strengths and reliabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Reliability {
    /// The probability that an annotator prefers the first answer of each question, as a mean over the annotators; ½ without
    /// votes.
    pub preferred: Vec<f64>,
    /// How often each annotator prefers the better answer, as a mean over the questions with votes.
    pub annotators: Vec<f64>,
}

impl Reliability {
    /// Estimates both from votes on `questions` questions by `annotators` people.
    pub fn of(votes: &[Vote], questions: usize, annotators: usize) -> Self {
        let votes: Vec<(usize, usize, f64)> = votes
            .iter()
            .filter(|vote| vote.question < questions && vote.annotator < annotators)
            .filter_map(|vote| Some((vote.question, vote.annotator, vote.choice.share()?)))
            .collect();
        let (mut strengths, mut trusts) = (vec![0.0; questions], vec![1.0; annotators]);
        for _ in 0..ROUNDS {
            let mut steps = Newton::new(&strengths, 0.0, STRENGTH);
            votes.iter().for_each(|(i, k, share)| steps.add(*i, trusts[*k], strengths[*i], *share));
            steps.go(&mut strengths);
            let mut steps = Newton::new(&trusts, 1.0, TRUST);
            votes.iter().for_each(|(i, k, share)| steps.add(*k, strengths[*i], trusts[*k], *share));
            steps.go(&mut trusts);
            trusts.iter_mut().for_each(|trust| *trust = trust.max(0.0));
        }
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
            if n > 0.0 { sum / n } else { 0.5 }
        };
        let preferred = |strength: &f64| mean(&mut trusts.iter().map(|trust| sigmoid(trust * strength)));
        let voted: Vec<f64> = strengths.iter().copied().filter(|strength| *strength != 0.0).collect();
        let reliable = |trust: &f64| mean(&mut voted.iter().map(|strength| sigmoid(trust * strength.abs())));
        Self {
            preferred: strengths.iter().map(preferred).collect(),
            annotators: trusts.iter().map(reliable).collect(),
        }
    }
}

/// A step for each of several values, each with a normal prior.
struct Newton {
    /// First and second derivative of the log-posterior.
    derivatives: Vec<(f64, f64)>,
}

impl Newton {
    fn new(values: &[f64], mean: f64, deviation: f64) -> Self {
        let precision = deviation.powi(-2);
        let derivatives = values.iter().map(|value| ((mean - value) * precision, -precision)).collect();
        Self { derivatives }
    }

    /// Adds a vote with probability σ(factor·value) for the first answer.
    fn add(&mut self, index: usize, factor: f64, value: f64, share: f64) {
        let p = sigmoid(factor * value);
        let (first, second) = &mut self.derivatives[index];
        *first += factor * (share - p);
        *second -= factor * factor * p * (1.0 - p);
    }

    /// Steps of at most 1, so that none goes astray where the curve is flat.
    fn go(&self, values: &mut [f64]) {
        for (value, (first, second)) in values.iter_mut().zip(&self.derivatives) {
            *value -= (first / second).clamp(-1.0, 1.0);
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
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
        assert_eq!((none.preferred, none.annotators), (vec![0.5; 2], vec![0.5]));
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
        let [careful, good, coin] = found.annotators[..] else { panic!("{found:?}") };
        // A strength is weaker than a certainty, so that reliabilities are below the shares of right votes.
        assert!(careful > 0.85 && good > 0.82 && coin < 0.75 && coin > 0.5, "{:?}", found.annotators);
        let right = truth.iter().zip(&found.preferred).filter(|(truth, p)| **truth == (**p > 0.5)).count();
        assert!(right >= 184, "{right} of 200");
    }
}
