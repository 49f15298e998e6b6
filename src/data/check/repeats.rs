//! Records that occur twice, contradict each other, or are in both the training and the evaluation data.

use std::collections::BTreeSet;

use serde::Serialize;

use super::hash::Hashes;
use super::places::{Files, Place};

/// What is kept of a record to find it again: 32 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    content: u64,
    order: u32,
    place: Place,
    /// The hash of the prompt, 0 if it is empty.
    prompt: u64,
}

impl Entry {
    /// The entry of a record.
    pub fn new(hashes: Hashes, place: Place) -> Self {
        let Hashes { content, order, prompt } = hashes;
        Self { content, order, place, prompt: prompt.unwrap_or(0) }
    }
}

/// Repeated records of one data set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repeats {
    /// Records that repeat an earlier one.
    pub duplicates: usize,
    /// The first repeated record and its repetition, as `file:line`.
    pub first_duplicate: Option<[String; 2]>,
    /// Groups of records that contradict each other: the same answers in several orders, or an answer that is judged
    /// both desirable and not.
    pub conflicts: usize,
    /// Two records of the first such group.
    pub first_conflict: Option<[String; 2]>,
}

impl Repeats {
    /// Finds what repeats.
    pub fn of(entries: &[Entry], files: &Files) -> Self {
        let mut sorted = entries.to_vec();
        sorted.sort_unstable_by_key(|entry| (entry.content, entry.place));
        let mut found = Self::default();
        let (mut duplicate, mut conflict) = (None, None);
        for group in sorted.chunk_by(|a, b| a.content == b.content).filter(|group| group.len() > 1) {
            let orders: BTreeSet<u32> = group.iter().map(|entry| entry.order).collect();
            found.duplicates += group.len() - orders.len();
            found.conflicts += usize::from(orders.len() > 1);
            for (i, later) in group.iter().enumerate() {
                let earlier = group[..i].iter().find(|earlier| earlier.order == later.order);
                if let Some(earlier) = earlier {
                    duplicate = first(duplicate, Some((earlier.place, later.place)));
                    break;
                }
            }
            let other = group.iter().find(|entry| entry.order != group[0].order);
            conflict = first(conflict, other.map(|other| (group[0].place, other.place)));
        }
        let named = |places: Option<(Place, Place)>| places.map(|(a, b)| [files.named(a), files.named(b)]);
        (found.first_duplicate, found.first_conflict) = (named(duplicate), named(conflict));
        found
    }
}

/// The pair of places whose second comes first.
fn first(a: Option<(Place, Place)>, b: Option<(Place, Place)>) -> Option<(Place, Place)> {
    a.into_iter().chain(b).min_by_key(|(earlier, later)| (*later, *earlier))
}

/// Evaluation records that the training data have too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Leaks {
    /// Evaluation records with the same prompt and answers, in whatever order.
    pub records: usize,
    /// The first one's training record and itself, as `file:line`.
    pub first_record: Option<[String; 2]>,
    /// Evaluation records with the same prompt; those of `records` among them.
    pub prompts: usize,
    /// The first one's training record and itself.
    pub first_prompt: Option<[String; 2]>,
}

/// Finds the records of `eval` that are in `train`.
pub fn leaks(train: (&[Entry], &Files), eval: (&[Entry], &Files)) -> Leaks {
    let (records, first_record) = common(train, eval, |entry| Some(entry.content));
    let (prompts, first_prompt) = common(train, eval, |entry| (entry.prompt != 0).then_some(entry.prompt));
    Leaks { records, first_record, prompts, first_prompt }
}

fn common(
    train: (&[Entry], &Files),
    eval: (&[Entry], &Files),
    key: impl Fn(&Entry) -> Option<u64>,
) -> (usize, Option<[String; 2]>) {
    let mut known: Vec<(u64, Place)> =
        train.0.iter().filter_map(|entry| Some((key(entry)?, entry.place))).collect();
    known.sort_unstable();
    let (mut count, mut first) = (0, None);
    for entry in eval.0 {
        let Some(key) = key(entry) else { continue };
        let at = known.partition_point(|(other, _)| *other < key);
        let Some((_, place)) = known.get(at).filter(|(other, _)| *other == key) else { continue };
        count += 1;
        first = first.or_else(|| Some([train.1.named(*place), eval.1.named(entry.place)]));
    }
    (count, first)
}
