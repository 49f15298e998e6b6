//! Truncation of a pair: the prompt stays shared by both completions.

use serde::{Deserialize, Serialize};

use super::example::Example;

/// Which end of a sequence longer than `max_length` is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncationMode {
    /// Keeps the beginning: completions lose their end (and their EOS).
    #[default]
    KeepStart,
    /// Keeps the end: the prompt loses its beginning.
    KeepEnd,
}

/// The truncation limits and mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truncation {
    /// Maximum number of tokens of prompt and completion together.
    pub max_length: Option<usize>,
    /// Maximum number of tokens of the prompt.
    pub max_prompt_length: Option<usize>,
    /// Which end is kept when `max_length` is exceeded.
    pub mode: TruncationMode,
}

/// The outcome of truncating an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The example fits.
    Whole,
    /// Tokens were cut.
    Truncated,
    /// Some completion would have no scored tokens; contains the reason.
    Dropped(String),
}

impl Truncation {
    /// Truncates `example` to the limits.
    ///
    /// - `max_prompt_length` keeps the end of the prompt, the part closest to the completion. The first token is also
    ///   kept if it is `bos`: models that were always trained with a BOS break down without it.
    /// - `keep_start` is exactly TRL 1.16's rule: each completion keeps what fits after the prompt, and a pair whose
    ///   prompt alone fills `max_length` is dropped.
    /// - `keep_end`: TRL truncates each sequence of a pair separately, which gives chosen and rejected different
    ///   contexts. Here the prompt is shortened once for both, by the excess of the longest sequence. Sequences of
    ///   equal length give the same result as in TRL. A completion that alone exceeds `max_length` keeps its end, with
    ///   an empty prompt.
    pub fn apply(&self, example: &mut Example, bos: Option<u32>) -> Outcome {
        let mut cut = self.max_prompt_length.is_some_and(|max| cut_prompt(&mut example.prompt, max, bos));
        if let Some(max) = self.max_length.filter(|max| example.longest() > *max) {
            cut = true;
            match self.mode {
                TruncationMode::KeepStart if example.prompt.len() >= max => {
                    return Outcome::Dropped(format!(
                        "its prompt of {} tokens leaves no room for a completion in max_length {max}",
                        example.prompt.len()
                    ));
                }
                TruncationMode::KeepStart => keep_start(example, max),
                TruncationMode::KeepEnd => keep_end(example, max),
            }
        }
        if let (true, Some((first, second))) = (cut, example.equal()) {
            return Outcome::Dropped(format!(
                "{} and {} are equal in what truncation leaves of them",
                example.kind.field(first),
                example.kind.field(second)
            ));
        }
        if cut && (0..example.completions.len()).any(|index| example.scored(index) == 0) {
            return Outcome::Dropped(
                "after truncation it has a completion of which no token is scored".into(),
            );
        }
        if cut { Outcome::Truncated } else { Outcome::Whole }
    }
}

fn cut_prompt(prompt: &mut Vec<u32>, max: usize, bos: Option<u32>) -> bool {
    let excess = prompt.len().saturating_sub(max);
    // If only one token fits, the last one is worth more than a BOS.
    let kept_front = usize::from(max > 1 && bos.is_some() && prompt.first() == bos.as_ref());
    prompt.drain(kept_front..kept_front + excess);
    excess > 0
}

fn keep_start(example: &mut Example, max: usize) {
    let room = max - example.prompt.len();
    for completion in &mut example.completions {
        completion.truncate(room);
    }
}

fn keep_end(example: &mut Example, max: usize) {
    let excess = example.longest() - max;
    example.prompt.drain(..excess.min(example.prompt.len()));
    for completion in &mut example.completions {
        completion.drain(..completion.len().saturating_sub(max));
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{Kind, Origin};
    use super::*;

    fn example(prompt: std::ops::Range<u32>, chosen: usize, rejected: usize) -> Example {
        let completion = |first: u32, len: usize| (first..first + len as u32).collect();
        Example {
            prompt: prompt.collect(),
            completions: vec![completion(100, chosen), completion(200, rejected)],
            kind: Kind::PAIR,
            origin: Origin::new("t", 1),
        }
    }

    fn max_length(max: usize, mode: TruncationMode) -> Truncation {
        Truncation { max_length: Some(max), mode, ..Truncation::default() }
    }

    #[test]
    fn what_fits_is_left_alone() {
        let mut pair = example(0..4, 3, 1);
        assert_eq!(max_length(7, TruncationMode::KeepStart).apply(&mut pair, None), Outcome::Whole);
        assert_eq!(Truncation::default().apply(&mut pair, None), Outcome::Whole);
        assert_eq!(pair, example(0..4, 3, 1));
    }

    #[test]
    fn keep_start_cuts_completions_and_drops_full_prompts() {
        let mut pair = example(0..4, 3, 1);
        assert_eq!(max_length(6, TruncationMode::KeepStart).apply(&mut pair, None), Outcome::Truncated);
        assert_eq!(pair, example(0..4, 2, 1));
        let dropped = max_length(4, TruncationMode::KeepStart).apply(&mut example(0..4, 3, 1), None);
        assert!(matches!(dropped, Outcome::Dropped(why) if why.contains("prompt of 4 tokens")));
    }

    #[test]
    fn keep_end_cuts_one_prompt_for_both() {
        let mut pair = example(0..4, 3, 1);
        assert_eq!(max_length(5, TruncationMode::KeepEnd).apply(&mut pair, None), Outcome::Truncated);
        // The longest has 7 tokens, two too many: both completions now follow prompt tokens 2 and 3.
        assert_eq!(pair, example(2..4, 3, 1));
    }

    #[test]
    fn keep_end_of_a_completion_longer_than_the_limit() {
        let mut pair = example(0..4, 6, 2);
        assert_eq!(max_length(5, TruncationMode::KeepEnd).apply(&mut pair, None), Outcome::Truncated);
        assert!(pair.prompt.is_empty());
        assert_eq!(pair.completions, [vec![101, 102, 103, 104, 105], vec![200, 201]]);
        // A single token after an empty prompt: nothing predicts it.
        let dropped = max_length(5, TruncationMode::KeepEnd).apply(&mut example(0..4, 6, 1), None);
        assert!(matches!(dropped, Outcome::Dropped(_)));
    }

    #[test]
    fn a_long_prompt_keeps_its_end_behind_its_bos() {
        let limit = |max| Truncation { max_prompt_length: Some(max), ..Truncation::default() };
        let cut = |max, bos| {
            let mut pair = example(0..6, 2, 2);
            assert_eq!(limit(max).apply(&mut pair, bos), Outcome::Truncated);
            pair.prompt
        };
        assert_eq!(cut(3, None), [3, 4, 5]);
        assert_eq!(cut(3, Some(0)), [0, 4, 5]);
        assert_eq!(cut(3, Some(9)), [3, 4, 5], "no BOS at its front");
        assert_eq!(cut(1, Some(0)), [5]);
    }
}
