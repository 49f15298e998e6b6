//! How a reward is named: `length`, `regex:PATTERN`, `command:PROGRAM`, `adapter:DIR`, `tiny-reviews`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Command, Length, Pattern, Reward, TinyReviews};
use crate::error::{Error, Result, nearest};

/// The name of a reward and its argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// [`Length`]: characters of the completion.
    Length,
    /// [`Pattern`]: whether the expression is found in the completion.
    Regex(String),
    /// [`Command`]: a program with its arguments, which scores JSON lines.
    Command(String),
    /// The adapter in this directory: [`RewardModel`](super::RewardModel) if it is one, else its implicit reward
    /// ([`LogRatio`](super::LogRatio)).
    Adapter(String),
    /// [`TinyReviews`]: the share of favourable words.
    TinyReviews,
}

/// The forms of a spec, for messages.
const FORMS: [&str; 5] = ["length", "regex:PATTERN", "command:PROGRAM", "adapter:DIR", "tiny-reviews"];

impl FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        match (name, argument.filter(|argument| !argument.trim().is_empty())) {
            ("length", None) if argument.is_none() => Ok(Self::Length),
            ("tiny-reviews", None) if argument.is_none() => Ok(Self::TinyReviews),
            ("regex", Some(pattern)) => Ok(Self::Regex(pattern.into())),
            ("command", Some(program)) => Ok(Self::Command(program.into())),
            ("adapter", Some(directory)) => Ok(Self::Adapter(directory.into())),
            _ => Err(unknown(text, name)),
        }
    }
}

/// The error for a spec that has none of the forms.
fn unknown(text: &str, name: &str) -> Error {
    let names = FORMS.map(|form| form.split(':').next().unwrap_or(form));
    let form = nearest(name, names).and_then(|near| FORMS.into_iter().find(|form| form.starts_with(near)));
    let remedy = form.map_or(String::new(), |form| format!("did you mean {form}? "));
    Error::Config(format!("{text:?} is not a reward; {remedy}the rewards are {}", FORMS.join(", ")))
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("length"),
            Self::Regex(pattern) => write!(f, "regex:{pattern}"),
            Self::Command(program) => write!(f, "command:{program}"),
            Self::Adapter(directory) => write!(f, "adapter:{directory}"),
            Self::TinyReviews => f.write_str("tiny-reviews"),
        }
    }
}

impl Spec {
    /// Makes a reward that needs no model. A command may take `timeout` for a call.
    ///
    /// # Errors
    /// If the argument is invalid, or the reward needs a model.
    pub fn plain(&self, timeout: Duration) -> Result<Box<dyn Reward>> {
        Ok(match self {
            Self::Length => Box::new(Length),
            Self::Regex(pattern) => Box::new(Pattern::new(pattern)?),
            Self::Command(program) => Box::new(Command::new(program, timeout)?),
            Self::TinyReviews => Box::new(TinyReviews::new()?),
            Self::Adapter(_) => {
                return Err(Error::Config(format!(
                    "the reward {self} needs a base model, and there is none here"
                )));
            }
        })
    }
}
