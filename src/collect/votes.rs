//! What a person said about two answers.

use serde::{Deserialize, Serialize};

/// A vote on two answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// The first answer is better.
    First,
    /// The second answer is better.
    Second,
    /// Neither is.
    Equal,
    /// No vote: the question is put aside.
    Skip,
}

impl Choice {
    /// How far the first answer is preferred; `None` for a question that was put aside.
    pub fn share(self) -> Option<f64> {
        match self {
            Self::First => Some(1.0),
            Self::Second => Some(0.0),
            Self::Equal => Some(0.5),
            Self::Skip => None,
        }
    }

    /// The vote with the answers in the other order.
    #[must_use]
    pub fn turned(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
            Self::Equal | Self::Skip => self,
        }
    }
}

/// A vote, by its question and its annotator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The index of the question.
    pub question: usize,
    /// The index of the annotator.
    pub annotator: usize,
    /// What was said.
    pub choice: Choice,
}
