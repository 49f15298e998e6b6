//! The true reward of tiny-reviews: the words that its pairs were ranked by.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{Reward, Sample};
use crate::error::{Error, Result};

const WORDS: &str = include_str!("../../examples/tiny-reviews/reward.json");

/// Favourable words among the favourable and unfavourable ones of the completion; 0.5 where there is neither.
#[derive(Debug, Deserialize)]
pub struct TinyReviews {
    favourable: BTreeSet<String>,
    unfavourable: BTreeSet<String>,
}

impl TinyReviews {
    /// Reads the embedded words.
    ///
    /// # Errors
    /// If they are damaged.
    pub fn new() -> Result<Self> {
        serde_json::from_str(WORDS).map_err(|error| Error::Data(format!("the embedded data: {error}")))
    }

    /// Returns the number of favourable words of a text, and of favourable and unfavourable words together.
    pub fn count(&self, text: &str) -> (usize, usize) {
        let words = text.split(|c: char| !c.is_alphabetic() && c != '\'').map(str::to_lowercase);
        words.fold((0, 0), |(good, all), word| {
            let favourable = self.favourable.contains(&word);
            let counts = favourable || self.unfavourable.contains(&word);
            (good + usize::from(favourable), all + usize::from(counts))
        })
    }
}

impl Reward for TinyReviews {
    fn name(&self) -> String {
        "tiny-reviews".into()
    }

    fn rewards(&mut self, samples: &[Sample]) -> Result<Vec<f64>> {
        let share = |sample: &Sample| match self.count(sample.completion) {
            (_, 0) => 0.5,
            (good, all) => good as f64 / all as f64,
        };
        Ok(samples.iter().map(share).collect())
    }
}
