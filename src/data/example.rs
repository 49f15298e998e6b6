//! Preference examples as token ids, with their origin.

use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::objective::Role;

/// The origin of a record: the file name as given and the 1-based line (the row, in a JSON array).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The file name, shared by all records of the file.
    pub file: Arc<str>,
    /// The 1-based line or row.
    pub line: usize,
}

impl Origin {
    /// Creates the origin `file:line`.
    pub fn new(file: impl Into<Arc<str>>, line: usize) -> Self {
        Self { file: file.into(), line }
    }

    /// Creates an [`Error::Record`] for the record at this origin.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::Record { file: self.file.to_string(), line: self.line, message: message.into() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The column of a pair's gold answer, as in TRL's `TPOTrainer`.
pub(super) const GOLD: &str = "reference";

/// The kind of a record: how its completions are labelled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A pair whose first completion is preferred to the second. A third one, if there is one, is the gold answer.
    Pair {
        /// y in [0, 1]: the degree to which the first completion is preferred. 1 is plain DPO.
        label: f32,
        /// By how much its reward should at least exceed that of the second, for a reward model; 0 if nothing is said.
        margin: f32,
    },
    /// A list of completions ranked from the best to the worst.
    Ranked,
    /// A single completion judged desirable or undesirable.
    Judged {
        /// Whether the completion is desirable.
        desirable: bool,
    },
    /// A single completion to imitate.
    Text,
    /// A single completion that follows the prompt of another record.
    Mismatched,
    /// A prompt without completions, which the policy completes itself.
    Prompt,
}

impl Kind {
    /// A pair whose first completion is preferred with certainty.
    pub const PAIR: Self = Self::pair(1.0);

    /// A pair with this label, without a margin.
    pub const fn pair(label: f32) -> Self {
        Self::Pair { label, margin: 0.0 }
    }

    /// Returns the role of completion `index`.
    pub fn role(self, index: usize) -> Role {
        match self {
            Self::Pair { .. } if index == 0 => Role::Chosen,
            Self::Pair { .. } if index == 1 => Role::Rejected,
            Self::Pair { .. } => Role::Gold,
            Self::Ranked => Role::Rank(index),
            Self::Judged { desirable: true } => Role::Desirable,
            Self::Judged { desirable: false } => Role::Undesirable,
            Self::Text | Self::Prompt => Role::Text,
            Self::Mismatched => Role::Mismatched,
        }
    }

    /// Returns y for a pair and 1 for every other kind.
    pub fn label(self) -> f32 {
        match self {
            Self::Pair { label, .. } => label,
            Self::Ranked | Self::Judged { .. } | Self::Text | Self::Mismatched | Self::Prompt => 1.0,
        }
    }

    /// Returns the margin of a pair, and 0 for every other kind.
    pub fn margin(self) -> f32 {
        match self {
            Self::Pair { margin, .. } => margin,
            Self::Ranked | Self::Judged { .. } | Self::Text | Self::Mismatched | Self::Prompt => 0.0,
        }
    }

    /// Returns the field name of completion `index`, for use in messages.
    pub fn field(self, index: usize) -> String {
        match self {
            Self::Pair { .. } if index == 0 => "chosen".into(),
            Self::Pair { .. } if index == 1 => "rejected".into(),
            Self::Pair { .. } => GOLD.into(),
            Self::Ranked => format!("completions[{index}]"),
            Self::Judged { .. } | Self::Text | Self::Mismatched | Self::Prompt => "completion".into(),
        }
    }
}

/// A prompt and its completions as token ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Tokens shared by all completions. They are not scored. May be empty.
    pub prompt: Vec<u32>,
    /// The completions; `[chosen, rejected]` for a pair, with its gold answer behind them if a loss imitates one.
    pub completions: Vec<Vec<u32>>,
    /// The kind of the record.
    pub kind: Kind,
    /// The origin of the record.
    pub origin: Origin,
}

impl Example {
    /// Returns the BLAKE3 hash of the token ids. The same sequences have the same id regardless of their origin and
    /// label, because the reference's log-probabilities depend only on the tokens.
    pub fn id(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("dpo-lora example v1");
        for sequence in std::iter::once(&self.prompt).chain(&self.completions) {
            // Hash the length first, so that moving a token from one sequence to the next changes the hash.
            hasher.update(&(sequence.len() as u64).to_le_bytes());
            for token in sequence {
                hasher.update(&token.to_le_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }

    /// Returns the number of tokens of the longest sequence, prompt and completion together.
    pub fn longest(&self) -> usize {
        self.prompt.len() + self.completions.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Returns the number of rows in a packed batch: the prompt once, and each completion without its last token, which
    /// is only ever a target.
    pub fn packed(&self) -> usize {
        self.prompt.len()
            + self.completions.iter().map(|tokens| tokens.len().saturating_sub(1)).sum::<usize>()
    }

    /// Returns the number of tokens of prompt + completion, summed over all completions.
    pub fn unpacked(&self) -> usize {
        self.completions.iter().map(|tokens| self.prompt.len() + tokens.len()).sum()
    }

    /// Returns the number of scored tokens of all completions.
    pub fn all_scored(&self) -> usize {
        (0..self.completions.len()).map(|index| self.scored(index)).sum()
    }

    /// Whether two completions are the same, so that there is nothing to prefer. Returns the first two such. The gold
    /// answer of a pair is not compared: it may be the chosen one.
    pub fn equal(&self) -> Option<(usize, usize)> {
        let compared = if matches!(self.kind, Kind::Pair { .. }) { 2 } else { usize::MAX };
        let all = self.completions.iter().enumerate().take(compared);
        all.clone().find_map(|(i, worse)| {
            let better = self.completions[..i].iter().position(|better| better == worse)?;
            Some((better, i))
        })
    }

    /// Returns the number of scored tokens of completion `index`. All are scored, except the first one after an empty
    /// prompt, which nothing predicts.
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
        let elsewhere = Example { kind: Kind::pair(0.5), origin: Origin::new("u", 9), ..base.clone() };
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
