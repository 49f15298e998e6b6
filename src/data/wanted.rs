//! What a run takes of its records.

use super::example::{Example, Kind};
use super::truncate::{Outcome, Truncation, TruncationMode};
use crate::objective::{Needs, Records};

/// What a run takes of its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Prompt, answers and labels, without the gold answer of a pair.
    #[default]
    Whole,
    /// Pairs with a gold answer (the column `reference`).
    Triples,
    /// Every column that some run reads: also the gold answer, and `margin`. To write rows again.
    Everything,
    /// Only the chosen answer of a pair, as a text to imitate. A pair with a soft label stays a pair.
    Preferred,
    /// Pairs for a reward model: with the column `margin`, without what stands behind the token at which the reward is
    /// read, and none that is too long (see [`Wanted::fit`]).
    Rewarded,
    /// Only prompts, which the policy completes itself: of rows with answers, the answers are left out.
    Prompts,
}

impl Wanted {
    /// Returns what a loss with these needs takes.
    pub fn of(needs: Needs) -> Self {
        match (needs.records, needs.rewards) {
            (_, true) => Self::Rewarded,
            (Records::Texts, false) => Self::Preferred,
            (Records::Triples, false) => Self::Triples,
            (Records::Prompts, false) => Self::Prompts,
            (Records::Pairs | Records::Ranked | Records::Judged, false) => Self::Whole,
        }
    }

    /// Returns what distinguishes the tokenized data in the cache; `None` for whole records.
    pub fn tag(self) -> Option<&'static str> {
        match self {
            Self::Whole => None,
            Self::Triples => Some("triples"),
            Self::Everything => Some("everything"),
            Self::Preferred => Some("preferred"),
            Self::Rewarded => Some("rewarded"),
            Self::Prompts => Some("prompts with their texts"),
        }
    }

    /// Whether the gold answer of a pair is wanted.
    pub(super) fn takes_gold(self) -> bool {
        matches!(self, Self::Triples | Self::Everything)
    }

    /// Makes an example what is wanted, within the limits. `pad` is the token that a classifier of transformers takes
    /// for padding, `bos` the one that a shortened prompt keeps.
    ///
    /// Reward models follow TRL 1.16's `RewardTrainer`: a pair with a sequence over `max_length` is left out instead of
    /// cut, unless `keep_end` keeps the end, and the reward is read at the last token that is not `pad`
    /// (transformers' `GenericForSequenceClassification`). If `pad` is the EOS, this is the token before it.
    pub fn fit(
        self,
        example: &mut Example,
        truncation: Truncation,
        bos: Option<u32>,
        pad: Option<u32>,
    ) -> Outcome {
        if self == Self::Preferred && example.kind == Kind::PAIR {
            example.completions.truncate(1);
            example.kind = Kind::Text;
        }
        if self == Self::Prompts {
            let outcome = Truncation { max_length: None, ..truncation }.apply(example, bos);
            return match truncation.max_length.filter(|max| example.prompt.len() >= *max) {
                Some(max) => Outcome::Dropped(format!(
                    "its prompt of {} tokens leaves no room for a completion in max_length {max}",
                    example.prompt.len()
                )),
                None => outcome,
            };
        }
        if self != Self::Rewarded {
            return truncation.apply(example, bos);
        }
        let limit = truncation.max_length.filter(|_| truncation.mode == TruncationMode::KeepStart);
        let outcome =
            Truncation { max_length: truncation.max_length.xor(limit), ..truncation }.apply(example, bos);
        if let Some(max) = limit.filter(|max| example.longest() > *max) {
            return Outcome::Dropped(format!(
                "its longest sequence has {} tokens, more than max_length {max}, and a reward is read at the end",
                example.longest()
            ));
        }
        for completion in &mut example.completions {
            let end = completion.iter().rposition(|token| Some(*token) != pad).map_or(0, |last| last + 1);
            completion.truncate(end);
        }
        let is_padding = example.prompt.last().is_none_or(|last| Some(*last) == pad);
        match example.completions.iter().position(Vec::is_empty).filter(|_| is_padding) {
            Some(index) => Outcome::Dropped(format!(
                "{} has no token at which to read a reward",
                example.kind.field(index)
            )),
            None => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Origin;

    fn pair(prompt: &[u32], completions: [&[u32]; 2]) -> Example {
        Example {
            prompt: prompt.to_vec(),
            completions: completions.map(<[u32]>::to_vec).to_vec(),
            kind: Kind::PAIR,
            origin: Origin::new("t", 1),
        }
    }

    #[test]
    fn a_reward_is_read_at_the_last_token_that_is_not_padding() {
        let whole = Truncation::default();
        let mut example = pair(&[1, 2], [&[3, 9, 4, 9], &[9]]);
        assert_eq!(Wanted::Rewarded.fit(&mut example, whole, None, Some(9)), Outcome::Whole);
        assert_eq!(example.completions, [vec![3, 9, 4], vec![]]);
        let mut kept = pair(&[1], [&[3, 8], &[8]]);
        assert_eq!(Wanted::Rewarded.fit(&mut kept, whole, None, Some(9)), Outcome::Whole);
        assert_eq!(kept.completions, [vec![3, 8], vec![8]]);
        let mut nowhere = pair(&[9], [&[3], &[9]]);
        let outcome = Wanted::Rewarded.fit(&mut nowhere, whole, None, Some(9));
        assert!(matches!(outcome, Outcome::Dropped(why) if why.contains("rejected has no token")));
    }

    #[test]
    fn a_pair_that_is_too_long_is_left_out_unless_the_end_is_kept() {
        let limit = |mode| Truncation { max_length: Some(4), mode, ..Truncation::default() };
        let long = || pair(&[1, 2], [&[3, 4, 5], &[6]]);
        let outcome = Wanted::Rewarded.fit(&mut long(), limit(TruncationMode::KeepStart), None, None);
        assert!(
            matches!(outcome, Outcome::Dropped(why) if why.contains("has 5 tokens, more than max_length 4"))
        );
        let mut cut = long();
        let outcome = Wanted::Rewarded.fit(&mut cut, limit(TruncationMode::KeepEnd), None, None);
        assert_eq!(
            (outcome, cut.prompt, cut.completions),
            (Outcome::Truncated, vec![2], vec![vec![3, 4, 5], vec![6]])
        );
        let mut fits = pair(&[1, 2], [&[3, 4], &[6]]);
        let outcome = Wanted::Rewarded.fit(&mut fits, limit(TruncationMode::KeepStart), None, None);
        assert_eq!(outcome, Outcome::Whole);
    }
}
