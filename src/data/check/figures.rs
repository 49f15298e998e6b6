//! What there is to say of a data set.

use std::collections::BTreeMap;

use serde::Serialize;

use super::bias::Bias;
use super::collect::{Collected, Told};
use super::lengths::{Bar, Percentiles, histogram};
use super::measure::Size;
use super::repeats::Repeats;
use super::special::Within;
use crate::data::findings::{all_undecided, unwritten};
use crate::data::{Example, Kind};

/// The figures of a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Valid records.
    pub records: usize,
    /// Their number by kind: `pair (strings)`, `pair (messages)`, `ranked list (strings)`, ...
    pub kinds: BTreeMap<String, usize>,
    /// Invalid records.
    pub refused: Refused,
    /// What lengths are counted in: `tokens` or `characters`.
    pub unit: &'static str,
    /// Lengths by field, before truncation: `prompt`, and `chosen` and `rejected`, or `completion`.
    pub lengths: BTreeMap<&'static str, Percentiles>,
    /// Records by the length of their prompt with the longest answer, before truncation.
    pub histogram: Vec<Bar>,
    /// Repeated and contradicting records.
    pub repeats: Repeats,
    /// Whether chosen answers are longer, of pairs.
    pub length_bias: Option<Bias>,
    /// Special tokens in the records' own text.
    pub special_tokens: Vec<Specials>,
    /// Valid records that may mean something else, one sentence per kind.
    pub doubts: Vec<String>,
    /// What truncation cuts; `None` if characters were counted.
    pub truncation: Option<Cut>,
    /// Records that are longer than the model's positions.
    pub too_long: Option<TooLong>,
    /// Soft labels, of pairs.
    pub labels: Option<Labels>,
    /// Desirable and undesirable answers, of judged ones.
    pub judged: Option<Judged>,
}

/// Invalid records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Their number.
    pub count: usize,
    /// What is wrong with the first ones, with file and line.
    pub first: Vec<String>,
}

/// A special token in the text of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Specials {
    /// The token.
    pub token: String,
    /// `messages`, where it forges the end of a turn, or `strings`, which may have been rendered on purpose.
    pub within: &'static str,
    /// The number of records that have it.
    pub records: usize,
    /// The first of them.
    pub first: String,
}

/// What truncation does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// The limit of a sequence.
    pub max_length: Option<usize>,
    /// The limit of a prompt.
    pub max_prompt_length: Option<usize>,
    /// Records that lose tokens.
    pub truncated: usize,
    /// Records that are left out.
    pub dropped: usize,
    /// The first ones that are left out, and why.
    pub first_dropped: Vec<String>,
    /// Tokens that are cut or left out, of all the records have.
    pub lost_tokens: usize,
}

/// Records that are longer than the model's positions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TooLong {
    /// Their number.
    pub records: usize,
    /// Tokens of the longest.
    pub longest: usize,
    /// The first of them.
    pub first: String,
}

/// Soft labels of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Labels {
    /// All pairs.
    pub pairs: usize,
    /// Those with a label below 1.
    pub labelled: usize,
    /// Those with a label below 0.5: rejected is preferred.
    pub below_half: usize,
}

impl Labels {
    /// The labels in a sentence; `None` if every label is 1.
    pub fn described(&self) -> Option<String> {
        (self.labelled > 0).then(|| {
            format!(
                "{} of {} pairs have a label below 1; {} below 0.5 (rejected is preferred)",
                self.labelled, self.pairs, self.below_half
            )
        })
    }
}

/// Returns the labels of `examples`.
pub fn labels(examples: &[Example]) -> Labels {
    let mut found = Labels { pairs: 0, labelled: 0, below_half: 0 };
    for example in examples {
        if let Kind::Pair { label, .. } = example.kind {
            found.pairs += 1;
            found.labelled += usize::from(label < 1.0);
            found.below_half += usize::from(label < 0.5);
        }
    }
    found
}

/// Judgements of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// Answers with the label true.
    pub desirable: usize,
    /// Answers with the label false.
    pub undesirable: usize,
}

/// Tokens of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TokensOfData {
    /// Rows of packed batches: prompts once.
    pub packed: usize,
    /// Tokens of prompt + completion, over all completions.
    pub unpacked: usize,
    /// The share that sharing prompts saves.
    pub saved: f64,
}

impl TokensOfData {
    /// Sums over records.
    pub fn of(sizes: &[Size]) -> Self {
        let sum = |tokens: fn(&Size) -> u32| sizes.iter().map(|size| tokens(size) as usize).sum::<usize>();
        let (packed, unpacked) = (sum(|size| size.packed), sum(|size| size.unpacked));
        Self { packed, unpacked, saved: 1.0 - packed as f64 / unpacked.max(1) as f64 }
    }
}

impl Collected {
    /// Returns the figures.
    pub fn figures(&self) -> Figures {
        let lengths = self.lengths.iter().filter_map(|(field, lengths)| {
            Percentiles::of(&mut lengths.clone()).map(|percentiles| (*field, percentiles))
        });
        let Told { count, first } = self.refused.clone();
        let (pairs, labelled, below_half) = self.labels;
        let (desirable, undesirable) = self.judged;
        Figures {
            records: self.entries.len(),
            kinds: self.kinds.clone(),
            refused: Refused { count, first },
            unit: if self.is_tokens { "tokens" } else { "characters" },
            lengths: lengths.collect(),
            histogram: histogram(&self.longest),
            repeats: Repeats::of(&self.entries, &self.files),
            length_bias: self.differences.bias(),
            special_tokens: self.specials(),
            doubts: self.doubts(),
            truncation: self.is_tokens.then(|| self.cut()),
            too_long: self.too_long.first.first().map(|first| TooLong {
                records: self.too_long.count,
                longest: self.most_positions,
                first: first.clone(),
            }),
            labels: (pairs > 0).then_some(Labels { pairs, labelled, below_half }),
            judged: (desirable + undesirable > 0).then_some(Judged { desirable, undesirable }),
        }
    }

    /// Every warning of a run about single records.
    fn doubts(&self) -> Vec<String> {
        let records = self.entries.len();
        let all =
            unwritten(&self.unwritten, records).into_iter().chain(all_undecided(self.undecided, records));
        all.chain(self.doubts.notes(records)).collect()
    }

    fn specials(&self) -> Vec<Specials> {
        let described =
            |((token, within), (records, first)): (&(String, Within), &(usize, String))| Specials {
                token: token.clone(),
                within: match within {
                    Within::Message => "messages",
                    Within::Text => "strings",
                },
                records: *records,
                first: first.clone(),
            };
        self.specials.iter().map(described).collect()
    }

    fn cut(&self) -> Cut {
        Cut {
            max_length: self.truncation.max_length,
            max_prompt_length: self.truncation.max_prompt_length,
            truncated: self.truncated,
            dropped: self.dropped.count,
            first_dropped: self.dropped.first.clone(),
            lost_tokens: self.lost,
        }
    }
}
