//! Preference data.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What to train and evaluate on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Preference pairs to train on.
    pub train: Sources,
    /// What to evaluate on.
    pub eval: Option<EvalSource>,
    /// Most tokens of a sequence.
    pub max_length: Option<usize>,
    /// Most tokens of a prompt.
    pub max_prompt_length: Option<usize>,
    /// Which end of a long sequence is kept.
    pub truncation_mode: TruncationMode,
    /// Jinja text or the path of a file with it.
    pub chat_template: Option<String>,
}

impl DataConfig {
    /// The defaults around the one key that has none.
    pub fn new(train: Sources) -> Self {
        Self {
            train,
            eval: None,
            max_length: Some(1024),
            max_prompt_length: None,
            truncation_mode: TruncationMode::KeepStart,
            chat_template: None,
        }
    }

    /// # Errors
    /// [`Error::Config`] naming each key, its value and the remedy.
    pub fn validate(&self) -> Result<()> {
        match self.max_length {
            Some(length @ 0..2) => {
                Err(Error::Config(format!("data.max_length is {length}; it must be 2 or more")))
            }
            _ => Ok(()),
        }
    }
}

/// Files, globs, directories: one string, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrMany", into = "OneOrMany")]
pub struct Sources(pub Vec<String>);

impl<T: Into<String>> From<T> for Sources {
    fn from(source: T) -> Self {
        Self(vec![source.into()])
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a file, glob or directory, or a list of them")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Sources {
    fn from(sources: OneOrMany) -> Self {
        match sources {
            OneOrMany::One(source) => Self(vec![source]),
            OneOrMany::Many(sources) => Self(sources),
        }
    }
}

impl From<Sources> for OneOrMany {
    fn from(mut sources: Sources) -> Self {
        if sources.0.len() == 1 { Self::One(sources.0.remove(0)) } else { Self::Many(sources.0) }
    }
}

/// What to evaluate on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EvalSource {
    /// A fraction of the training data.
    Fraction(f64),
    /// Sources of their own.
    Sources(Sources),
}

/// Which end of a long sequence is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncationMode {
    /// The start.
    KeepStart,
    /// The end.
    KeepEnd,
}
