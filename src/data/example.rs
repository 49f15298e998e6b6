//! A preference example as token ids, and where it came from.

use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::objective::Role;

/// Where a record stands: the file as it was named and its 1-based line (row, for one JSON array).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The file; shared by all its records.
    pub file: Arc<str>,
    /// 1-based line or row.
    pub line: usize,
}

impl Origin {
    /// The origin `file:line`.
    pub fn new(file: impl Into<Arc<str>>, line: usize) -> Self {
        Self { file: file.into(), line }
    }

    /// An [`Error::Record`] about the record at this place.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::Record { file: self.file.to_string(), line: self.line, message: message.into() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What a record says of its completions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// The first of two is preferred to the second.
    Pair {
        /// y in [0, 1]: the degree to which it is; 1 is plain DPO.
        label: f32,
    },
    /// They are listed from the best to the worst.
    Ranked,
    /// There is one, and it is desirable or not.
    Judged {
        /// Which of the two.
        desirable: bool,
    },
    /// There is one, to be imitated.
    Text,
    /// There is one, behind the prompt of another record.
    Mismatched,
}

impl Kind {
    /// A pair whose first completion is certainly preferred.
    pub const PAIR: Self = Self::Pair { label: 1.0 };

    /// The role of completion `index`.
    pub fn role(self, index: usize) -> Role {
        match self {
            Self::Pair { .. } if index == 0 => Role::Chosen,
            Self::Pair { .. } => Role::Rejected,
            Self::Ranked => Role::Rank(index),
            Self::Judged { desirable: true } => Role::Desirable,
            Self::Judged { desirable: false } => Role::Undesirable,
            Self::Text => Role::Text,
            Self::Mismatched => Role::Mismatched,
        }
    }

    /// y of a pair; 1 for everything else.
    pub fn label(self) -> f32 {
        match self {
            Self::Pair { label } => label,
            Self::Ranked | Self::Judged { .. } | Self::Text | Self::Mismatched => 1.0,
        }
    }

    /// The field of completion `index`, for messages.
    pub fn field(self, index: usize) -> String {
        match self {
            Self::Pair { .. } if index == 0 => "chosen".into(),
            Self::Pair { .. } => "rejected".into(),
            Self::Ranked => format!("completions[{index}]"),
            Self::Judged { .. } | Self::Text | Self::Mismatched => "completion".into(),
        }
    }
}

/// A prompt and its completions as token ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Tokens all completions share; not scored. May be empty.
    pub prompt: Vec<u32>,
    /// The completions; for a pair `[chosen, rejected]`.
    pub completions: Vec<Vec<u32>>,
    /// What the record says of them.
    pub kind: Kind,
    /// Where the record stands.
    pub origin: Origin,
}

impl Example {
    /// BLAKE3 over the token ids: the same sequences have the same id wherever they stand and whatever their label,
    /// since log-probabilities of the reference depend on nothing else of an example.
    pub fn id(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("dpo-lora example v1");
        for sequence in std::iter::once(&self.prompt).chain(&self.completions) {
            // The length first, so that no token can move from one sequence to the next unseen.
            hasher.update(&(sequence.len() as u64).to_le_bytes());
            for token in sequence {
                hasher.update(&token.to_le_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }

    /// Tokens of the longest sequence, prompt and completion together.
    pub fn longest(&self) -> usize {
        self.prompt.len() + self.completions.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// How many tokens of completion `index` are scored: all, but for the first one behind an empty prompt, which
    /// nothing predicts.
    pub fn scored(&self, index: usize) -> usize {
        let len = self.completions.get(index).map_or(0, Vec::len);
        if self.prompt.is_empty() { len.saturating_sub(1) } else { len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(prompt: &[u32], chosen: &[u32], rejected: &[u32]) -> Example {
        Example {
            prompt: prompt.to_vec(),
            completions: vec![chosen.to_vec(), rejected.to_vec()],
            kind: Kind::PAIR,
            origin: Origin::new("t", 1),
        }
    }

    #[test]
    fn id_sees_tokens_and_borders_only() {
        let base = example(&[1, 2], &[3], &[4]);
        assert_ne!(base.id(), example(&[1], &[2, 3], &[4]).id(), "the border moved");
        assert_ne!(base.id(), example(&[1, 2], &[4], &[3]).id(), "the order changed");
        let elsewhere =
            Example { kind: Kind::Pair { label: 0.5 }, origin: Origin::new("u", 9), ..base.clone() };
        assert_eq!(base.id(), elsewhere.id());
    }

    #[test]
    fn the_first_token_behind_an_empty_prompt_is_not_scored() {
        assert_eq!(example(&[], &[3, 5], &[4]).scored(0), 1);
        assert_eq!(example(&[], &[3, 5], &[4]).scored(1), 0);
        assert_eq!(example(&[7], &[3, 5], &[4]).scored(0), 2);
    }

    #[test]
    fn origin_reads_file_and_line() {
        assert_eq!(Origin::new("a.jsonl", 3).to_string(), "a.jsonl:3");
        assert_eq!(Origin::new("a.jsonl", 3).error("x").to_string(), "a.jsonl:3: x");
    }
}
