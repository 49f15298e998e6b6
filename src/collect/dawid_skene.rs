//! Labels from annotators who err in their own ways (Dawid and Skene 1979, Applied Statistics 28).
//!
//! Every question has one true label, the first or the second answer. Annotator k says first, equal or second with a
//! probability that depends on the label: a 2 × 3 table, so that somebody who mostly says equal, or prefers the first place,
//! is not simply unreliable. Labels and tables are estimated by expectation and maximisation.

use super::votes::{Choice, Vote};

const ROUNDS: usize = 200;

/// What annotators begin with, in votes: mostly right, sometimes undecided.
const PRIOR: [[f64; 3]; 2] = [[2.0, 0.5, 0.5], [0.5, 0.5, 2.0]];

/// Labels and tables.
#[derive(Clone, Debug, PartialEq)]
pub struct DawidSkene {
    /// The probability that the first answer of each question is the better one.
    pub first: Vec<f64>,
    /// For each annotator: the probabilities to say first, equal and second where the first answer is better, and where the
    /// second is.
    pub tables: Vec<[[f64; 3]; 2]>,
}

impl DawidSkene {
    /// Estimates both from votes on `questions` questions by `annotators` people.
    pub fn of(votes: &[Vote], questions: usize, annotators: usize) -> Self {
        let votes: Vec<(usize, usize, usize)> = votes
            .iter()
            .filter(|vote| vote.question < questions && vote.annotator < annotators)
            .filter_map(|vote| Some((vote.question, vote.annotator, column(vote.choice)?)))
            .collect();
        let mut found = Self { first: vec![0.5; questions], tables: vec![normalised(PRIOR); annotators] };
        for _ in 0..ROUNDS {
            let mut odds = vec![0.0; questions];
            for (question, annotator, said) in &votes {
                let table = &found.tables[*annotator];
                odds[*question] += (table[0][*said] / table[1][*said]).ln();
            }
            found.first = odds.iter().map(|odds: &f64| 1.0 / (1.0 + (-odds).exp())).collect();
            let mut counts = vec![PRIOR; annotators];
            for (question, annotator, said) in &votes {
                let first = found.first[*question];
                counts[*annotator][0][*said] += first;
                counts[*annotator][1][*said] += 1.0 - first;
            }
            found.tables = counts.into_iter().map(normalised).collect();
        }
        found
    }
}

/// The column of a vote; `None` for a question that was put aside.
fn column(choice: Choice) -> Option<usize> {
    match choice {
        Choice::First => Some(0),
        Choice::Equal => Some(1),
        Choice::Second => Some(2),
        Choice::Skip => None,
    }
}

fn normalised(table: [[f64; 3]; 2]) -> [[f64; 3]; 2] {
    table.map(|row| row.map(|count| count / row.iter().sum::<f64>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn a_fixed_habit_is_seen_through() {
        // Two careful annotators, and one who always says first.
        let truth = |i: usize| Stream::new(8, "truth").uniform(i as u64) < 0.5;
        let mut votes = Vec::new();
        for question in 0..100 {
            let right = if truth(question) { Choice::First } else { Choice::Second };
            for annotator in 0..2 {
                let slips = Stream::new(9, "slips").child(annotator as u64).uniform(question as u64) < 0.1;
                let choice = if slips { right.turned() } else { right };
                votes.push(Vote { question, annotator, choice });
            }
            votes.push(Vote { question, annotator: 2, choice: Choice::First });
        }
        let found = DawidSkene::of(&votes, 100, 3);
        // Whatever the label, the third says first.
        assert!(found.tables[2].iter().all(|row| row[0] > 0.9), "{:?}", found.tables[2]);
        for table in &found.tables[..2] {
            assert!(table[0][0] > 0.8 && table[1][2] > 0.8, "{table:?}");
        }
        let right = (0..100).filter(|i| truth(*i) == (found.first[*i] > 0.5)).count();
        assert!(right >= 85, "{right}");
    }

    #[test]
    fn ties_and_skips_decide_nothing() {
        let vote = |choice| Vote { question: 0, annotator: 0, choice };
        for choice in [Choice::Equal, Choice::Skip] {
            let found = DawidSkene::of(&[vote(choice)], 1, 1);
            assert!((found.first[0] - 0.5).abs() < 1e-9, "{found:?}");
        }
        let one = DawidSkene::of(&[vote(Choice::Second)], 1, 1).first[0];
        assert!(one < 0.5 && one > 0.0, "{one}");
    }
}
