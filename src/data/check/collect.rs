//! The pass over the records.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::bias::Differences;
use super::measure::{Measure, Measured, Size};
use super::places::Files;
use super::repeats::{Entry, Leaks, leaks};
use super::special::Within;
use crate::data::cases::Cases;
use crate::data::doubt::Doubts;
use crate::data::example::GOLD;
use crate::data::truncate::Outcome;
use crate::data::{Kind, Record, Truncation, hold_out};
use crate::error::Result;

/// Records that are measured together, on all threads.
const CHUNK: usize = 2048;

/// Messages that are kept of what repeats: invalid records, dropped ones.
pub(super) const MOST_KEPT: usize = 24;

/// A number, and what is said of the first ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub count: usize,
    pub first: Vec<String>,
}

impl Told {
    pub fn add(&mut self, message: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < MOST_KEPT {
            self.first.push(message());
        }
    }
}

/// All that is kept of a data set.
#[derive(Default)]
pub struct Collected {
    pub(super) is_tokens: bool,
    pub(super) truncation: Truncation,
    pub(super) files: Files,
    /// One a record.
    pub(super) entries: Vec<Entry>,
    /// One a record, in the same order.
    pub(super) sizes: Vec<Size>,
    /// By field (`prompt`, `chosen`, ...): one number per record or answer.
    pub(super) lengths: BTreeMap<&'static str, Vec<u32>>,
    /// Prompt and longest answer together.
    pub(super) longest: Vec<u32>,
    pub(super) refused: Told,
    pub(super) dropped: Told,
    pub(super) too_long: Told,
    pub(super) most_positions: usize,
    pub(super) truncated: usize,
    pub(super) lost: usize,
    pub(super) kinds: BTreeMap<String, usize>,
    pub(super) differences: Differences,
    pub(super) labels: (usize, usize, usize),
    pub(super) judged: (usize, usize),
    /// By token and place: records, and the origin of the first.
    pub(super) specials: BTreeMap<(String, Within), (usize, String)>,
    pub(super) doubts: Doubts,
    /// Records whose rendered conversation lacks the end of the rendered prompt.
    pub(super) unwritten: Cases,
    /// Pairs whose label is 0.5.
    pub(super) undecided: usize,
}

/// Reads all records, and keeps what [`Collected::figures`] needs. Invalid ones are counted, and the first are kept in words.
pub fn collect(records: impl Iterator<Item = Result<Record>>, measure: &Measure) -> Collected {
    let mut found = Collected {
        is_tokens: measure.counts_tokens(),
        truncation: measure.truncation,
        ..Collected::default()
    };
    let mut records = records.peekable();
    while records.peek().is_some() {
        let chunk: Vec<Result<Record>> = records.by_ref().take(CHUNK).collect();
        let measured: Vec<Result<Measured>> =
            chunk.into_par_iter().map(|record| measure.of(&record?)).collect();
        measured.into_iter().for_each(|measured| found.take(measured, measure));
    }
    found
}

impl Collected {
    fn take(&mut self, measured: Result<Measured>, measure: &Measure) {
        let mut measured = match measured {
            Ok(measured) => measured,
            Err(error) => return self.refused.add(|| error.to_string()),
        };
        let place = self.files.place(&measured.origin);
        self.doubts.add(&measured.origin, std::mem::take(&mut measured.doubts));
        if let Some(text) = measured.unwritten.take() {
            self.unwritten.add(measured.origin.to_string(), format!("{text:?}"));
        }
        self.entries.push(Entry::new(measured.hashes, place));
        self.sizes.push(measured.size);
        self.take_lengths(&measured);
        self.take_kind(&measured);
        self.take_outcome(&measured);
        for (within, token) in &measured.specials {
            let token = measure.finder.as_ref().map_or("", |finder| finder.token(*token));
            let first = || (0, measured.origin.to_string());
            self.specials.entry((token.to_string(), *within)).or_insert_with(first).0 += 1;
        }
    }

    fn take_lengths(&mut self, measured: &Measured) {
        self.lengths.entry("prompt").or_default().push(measured.prompt);
        for (index, length) in measured.answers.iter().enumerate() {
            self.lengths.entry(field(measured.kind, index)).or_default().push(*length);
        }
        let longest = measured.answers.iter().max().copied().unwrap_or(0);
        self.longest.push(measured.prompt.saturating_add(longest));
        if let (Kind::Pair { .. }, [chosen, rejected, ..]) = (measured.kind, measured.answers.as_slice()) {
            self.differences.add(*chosen, *rejected);
        }
    }

    fn take_kind(&mut self, measured: &Measured) {
        let name = match measured.kind {
            Kind::Pair { .. } if measured.answers.len() > 2 => "triple",
            Kind::Pair { .. } => "pair",
            Kind::Ranked => "ranked list",
            Kind::Judged { .. } => "judged answer",
            Kind::Text => "text",
            Kind::Mismatched => "mismatched answer",
            Kind::Prompt => "prompt",
        };
        let form = if measured.is_chat { "messages" } else { "strings" };
        *self.kinds.entry(format!("{name} ({form})")).or_default() += 1;
        match measured.kind {
            Kind::Pair { label, .. } => {
                self.labels.0 += 1;
                self.labels.1 += usize::from(label < 1.0);
                self.labels.2 += usize::from(label < 0.5);
                self.undecided += usize::from(label == 0.5);
            }
            Kind::Judged { desirable: true } => self.judged.0 += 1,
            Kind::Judged { desirable: false } => self.judged.1 += 1,
            Kind::Ranked | Kind::Text | Kind::Mismatched | Kind::Prompt => {}
        }
    }

    fn take_outcome(&mut self, measured: &Measured) {
        let here = &measured.origin;
        self.lost += measured.lost;
        match &measured.outcome {
            Outcome::Whole => {}
            Outcome::Truncated => self.truncated += 1,
            Outcome::Dropped(why) => self.dropped.add(|| format!("{here}: {why}")),
        }
        if let Some(tokens) = measured.too_long {
            self.too_long.add(|| here.to_string());
            self.most_positions = self.most_positions.max(tokens);
        }
    }

    /// Returns the sizes of the records that are trained on and what of the rest they contain, if a share is held out as
    /// [`hold_out`] does.
    ///
    /// # Errors
    /// As [`hold_out`].
    pub fn held_out(&self, fraction: f64, seed: u64) -> Result<(Vec<Size>, Leaks)> {
        let records = self.entries.iter().copied().zip(self.sizes.iter().copied()).collect();
        let (train, eval) = hold_out(records, fraction, seed)?;
        let (train, sizes): (Vec<Entry>, Vec<Size>) = train.into_iter().unzip();
        let eval: Vec<Entry> = eval.into_iter().map(|(entry, _)| entry).collect();
        Ok((sizes, leaks((&train, &self.files), (&eval, &self.files))))
    }

    /// Returns what of `eval` is in these records.
    pub fn leaks_into(&self, eval: &Self) -> Leaks {
        leaks((&self.entries, &self.files), (&eval.entries, &eval.files))
    }

    /// Returns the size of each record, in order; zeros if characters were counted.
    pub fn sizes(&self) -> &[Size] {
        &self.sizes
    }
}

/// The name under which the length of answer `index` is counted.
fn field(kind: Kind, index: usize) -> &'static str {
    match kind {
        Kind::Pair { .. } if index == 0 => "chosen",
        Kind::Pair { .. } if index == 1 => "rejected",
        Kind::Pair { .. } => GOLD,
        Kind::Ranked | Kind::Judged { .. } | Kind::Text | Kind::Mismatched | Kind::Prompt => "completion",
    }
}
