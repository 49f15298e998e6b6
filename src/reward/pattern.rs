//! 1 where a regular expression is found in the completion, 0 elsewhere.

use fancy_regex::Regex;

use super::{Reward, Sample};
use crate::error::{Error, Result};

/// A regular expression, with the syntax of the `regex` crate, look-around and back-references.
#[derive(Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles the expression.
    ///
    /// # Errors
    /// If it is empty or invalid.
    pub fn new(pattern: &str) -> Result<Self> {
        if pattern.is_empty() {
            return Err(Error::Config(
                "the reward regex: has no pattern; write regex:PATTERN, such as regex:\\bexcellent\\b".into(),
            ));
        }
        let regex = Regex::new(pattern)
            .map_err(|error| Error::Config(format!("the reward regex:{pattern} is invalid: {error}")))?;
        Ok(Self(regex))
    }
}

impl Reward for Pattern {
    fn name(&self) -> String {
        format!("regex:{}", self.0.as_str())
    }

    fn rewards(&mut self, samples: &[Sample]) -> Result<Vec<f64>> {
        let found = |sample: &Sample| match self.0.is_match(sample.completion) {
            Ok(found) => Ok(f64::from(u8::from(found))),
            Err(error) => Err(Error::Data(format!(
                "the reward {} cannot be computed for {:?}: {error}",
                self.name(),
                sample.completion
            ))),
        };
        samples.iter().map(found).collect()
    }
}
