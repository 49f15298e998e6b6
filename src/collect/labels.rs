//! From votes to pairs with labels, and what was in conflict.

use serde::Serialize;

use super::dawid_skene::DawidSkene;
use super::reliability::{Annotator, Reliability};
use super::votes::{Choice, Vote};

/// The votes on a question and the label that they make.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Labelled {
    /// The index of the question.
    pub question: usize,
    /// Votes for the first answer, for neither, and for the second.
    pub votes: [usize; 3],
    /// How far the first answer is preferred, by Bradley-Terry with the reliability of annotators.
    pub bradley_terry: f64,
    /// The probability that the first answer is the better one, by Dawid and Skene.
    pub dawid_skene: f64,
    /// Whether some prefer the first answer and some the second.
    pub in_conflict: bool,
}

impl Labelled {
    /// The label of the pair: 1 or 0 where all votes agree, ½ where all are ties, else the soft label by Bradley-Terry.
    pub fn label(&self) -> f64 {
        match self.votes {
            [_, 0, 0] => 1.0,
            [0, 0, _] => 0.0,
            [0, _, 0] => 0.5,
            [_, _, _] => self.bradley_terry,
        }
    }
}

/// All labels, and what is known of the annotators.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Labels {
    /// Questions with votes, in order.
    pub questions: Vec<Labelled>,
    /// The annotators, in the order of their first votes.
    pub annotators: Vec<Annotator>,
}

/// Puts votes together. `names` are those of the annotators.
pub fn labelled(votes: &[Vote], questions: usize, names: &[String]) -> Labels {
    let reliability = Reliability::of(votes, questions, names.len());
    let dawid_skene = DawidSkene::of(votes, questions, names.len());
    let mut counts = vec![[0; 3]; questions];
    let mut cast = vec![0; names.len()];
    for vote in votes {
        let column = match vote.choice {
            Choice::First => 0,
            Choice::Equal => 1,
            Choice::Second => 2,
            Choice::Skip => continue,
        };
        if let (Some(counts), Some(cast)) = (counts.get_mut(vote.question), cast.get_mut(vote.annotator)) {
            counts[column] += 1;
            *cast += 1;
        }
    }
    let labelled = |(question, votes): (usize, [usize; 3])| Labelled {
        question,
        votes,
        bradley_terry: reliability.preferred[question],
        dawid_skene: dawid_skene.first[question],
        in_conflict: votes[0] > 0 && votes[2] > 0,
    };
    let voted = counts.into_iter().enumerate().filter(|(_, votes)| votes.iter().sum::<usize>() > 0);
    let annotators =
        names.iter().zip(cast).zip(&reliability.annotators).map(|((name, votes), reliability)| Annotator {
            name: name.clone(),
            votes,
            reliability: *reliability,
        });
    Labels { questions: voted.map(labelled).collect(), annotators: annotators.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_hard_where_all_agree_and_soft_where_they_do_not() {
        let vote = |question, annotator, choice| Vote { question, annotator, choice };
        let votes = [
            vote(0, 0, Choice::First),
            vote(0, 1, Choice::First),
            vote(1, 0, Choice::First),
            vote(1, 1, Choice::Second),
            vote(2, 0, Choice::Equal),
            vote(3, 0, Choice::Skip),
            vote(4, 0, Choice::First),
            vote(4, 1, Choice::Equal),
            vote(5, 1, Choice::Second),
        ];
        let found = labelled(&votes, 6, &["a".into(), "b".into()]);
        let questions: Vec<_> = found.questions.iter().map(|it| (it.question, it.in_conflict)).collect();
        assert_eq!(questions, [(0, false), (1, true), (2, false), (4, false), (5, false)]);
        let labels: Vec<f64> = found.questions.iter().map(Labelled::label).collect();
        assert_eq!((labels[0], labels[2], labels[4]), (1.0, 0.5, 0.0));
        assert!(labels[1] > 0.2 && labels[1] < 0.8 && labels[3] > 0.5 && labels[3] < 1.0, "{labels:?}");
        assert_eq!(found.annotators.iter().map(|it| it.votes).collect::<Vec<_>>(), [4, 4]);
    }
}
