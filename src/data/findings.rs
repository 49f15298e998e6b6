//! The findings of reading a data set: counts, invalid records, and everything that a user should know before training.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::cases::{Cases, LISTED};
use super::doubt::Doubts;
use super::example::{Kind, Origin};
use super::schema::Schema;
use crate::error::{Error, Result};

/// The number of invalid records that are listed in a file.
pub const MOST_SKIPPED: usize = 100_000;

/// What happens to a run with invalid records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The invalid records are listed, and nothing is trained.
    #[default]
    Stop,
    /// The invalid records are counted, listed in `skipped.jsonl` of the run's directory, and skipped.
    Skip,
}

/// The number of findings of each kind, with the first example.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// The number of valid records.
    pub records: usize,
    /// The number of records by the name of their schema.
    pub schemas: BTreeMap<String, usize>,
    /// The number of records whose schema, that of another program or of a known data set, was recognised by its
    /// columns.
    pub recognised: usize,
    /// The number of records that `data.filter` removed.
    pub filtered: usize,
    /// The number of examples that lost tokens to `max_length` or `max_prompt_length`.
    pub truncated: usize,
    /// Records that have nothing to score within the length limits.
    pub dropped: Cases,
    /// Records whose rendered conversation lacks the end of the rendered prompt.
    pub lost: Cases,
    /// Valid records that may mean something else.
    #[serde(default)]
    pub doubts: Doubts,
    /// The number of pairs with a label other than 1.
    pub labelled: usize,
    /// The number of pairs whose label is below 0.5.
    pub inverted: usize,
    /// The number of pairs whose label is 0.5.
    #[serde(default)]
    pub undecided: usize,
    /// Invalid records, each with its message.
    pub invalid: Cases,
    /// The same, up to [`MOST_SKIPPED`]: what a run with [`OnError::Skip`] leaves out.
    #[serde(default)]
    pub skipped: Vec<Skipped>,
}

/// An invalid record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The name of its file.
    pub file: String,
    /// Its 1-based line or row.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

impl Findings {
    /// Counts a valid record.
    pub(super) fn record(&mut self, schema: Schema, kind: Kind) {
        self.records += 1;
        self.recognised += usize::from(!schema.is_native());
        match self.schemas.get_mut(schema.name()) {
            Some(count) => *count += 1,
            None => drop(self.schemas.insert(schema.name().to_owned(), 1)),
        }
        if let Kind::Pair { label, .. } = kind {
            self.labelled += usize::from(label != 1.0);
            self.inverted += usize::from(label < 0.5);
            self.undecided += usize::from(label == 0.5);
        }
    }

    /// Counts a record whose conversation lacks the end of its prompt.
    pub(super) fn lost(&mut self, origin: &Origin, text: &str) {
        self.lost.add(origin.to_string(), format!("{text:?}"));
    }

    /// Counts an invalid record. Errors that do not concern a single record are returned.
    pub(super) fn invalid(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Record { file, line, message } => {
                if self.skipped.len() < MOST_SKIPPED {
                    self.skipped.push(Skipped { file: file.clone(), line, message: message.clone() });
                }
                self.invalid.add(format!("{file}:{line}"), message);
                Ok(())
            }
            other => Err(other),
        }
    }

    /// Returns one error that lists the invalid records; `None` if there are none. Records with the same message share
    /// a line.
    pub fn refused(&self) -> Option<Error> {
        let Cases { count, first: listed } = &self.invalid;
        let (place, message) = listed.first()?;
        let all = count + self.records;
        if listed.iter().all(|(_, other)| other == message) && (*count == 1 || self.records == 0) {
            let (file, line) = place.rsplit_once(':')?;
            let more = if *count > 1 { format!(" (so are all {all} records)") } else { String::new() };
            let (line, message) = (line.parse().unwrap_or(0), format!("{message}{more}"));
            return Some(Error::Record { file: file.into(), line, message });
        }
        let mut lines: Vec<(&str, String)> = Vec::new();
        for (place, message) in listed {
            match lines.iter_mut().find(|(known, _)| known == message) {
                Some((_, places)) => *places += &format!(", {place}"),
                None => lines.push((message, place.clone())),
            }
        }
        let mut lines: Vec<String> =
            lines.into_iter().map(|(message, places)| format!("{places}: {message}")).collect();
        if *count > listed.len() {
            lines.push(format!("and {} more", count - listed.len()));
        }
        lines.push(format!(
            "{count} of {all} records are invalid; mend them, or leave them out with data.on_error: skip"
        ));
        Some(Error::Data(lines.join("\n")))
    }

    /// Describes the findings, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let records = self.records;
        if self.recognised > 0 {
            let each: Vec<String> =
                self.schemas.iter().map(|(name, count)| format!("{name} ({count} records)")).collect();
            notes.push(format!("format: {}", each.join(", ")));
        }
        if let Some(first) = self.invalid.described() {
            notes.push(format!(
                "warning: {} of {} records are invalid and were skipped: {first}",
                self.invalid.count,
                self.invalid.count + records
            ));
        }
        if self.filtered > 0 {
            notes.push(format!("{} records were left out by data.filter", self.filtered));
        }
        if self.labelled > 0 {
            notes.push(format!(
                "{} of {records} pairs have a label other than 1; {} are below 0.5, where rejected is preferred{}",
                self.labelled,
                self.inverted,
                if self.inverted > 0 { ", and accuracies still count how often chosen is ahead" } else { "" }
            ));
        }
        notes.extend(all_undecided(self.undecided, records).map(|note| format!("warning: {note}")));
        notes.extend(unwritten(&self.lost, records).map(|note| format!("warning: {note}")));
        notes.extend(self.doubts.notes(records).into_iter().map(|note| format!("warning: {note}")));
        if self.truncated > 0 {
            notes.push(format!("{} of {records} records were truncated to fit max_length", self.truncated));
        }
        if let Some(first) = self.dropped.described() {
            notes.push(format!("{} of {records} records were left out: {first}", self.dropped.count));
        }
        notes
    }
}

/// Describes the records whose rendered conversation lacks the end of the rendered prompt.
pub(super) fn unwritten(lost: &Cases, records: usize) -> Option<String> {
    let first = lost.described()?;
    Some(format!(
        "in {} of {records} records the rendered conversation lacks text of the rendered prompt, which is therefore not \
         trained on: {first}; use a chat template whose prompt is the beginning of its conversation",
        lost.count
    ))
}

/// Describes pairs whose labels prefer neither answer; `undecided` is their number.
pub(super) fn all_undecided(undecided: usize, records: usize) -> Option<String> {
    (undecided > 0 && undecided == records).then(|| {
        "the label of every pair is 0.5, which prefers neither answer, so that nothing can be learned from them".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_invalid_record_is_its_own_error_and_many_are_listed() {
        let mut findings = Findings { records: 5, ..Findings::default() };
        assert!(findings.refused().is_none());
        let error = |line| Error::Record { file: "a:b.jsonl".into(), line, message: "broken".into() };
        findings.invalid(error(3)).unwrap();
        assert_eq!(findings.refused().unwrap().to_string(), "a:b.jsonl:3: broken");
        (4..40).for_each(|line| findings.invalid(error(line)).unwrap());
        let text = findings.refused().unwrap().to_string();
        assert_eq!(text.matches("a:b.jsonl:").count(), LISTED, "{text}");
        assert!(
            text.ends_with(
                "a:b.jsonl:26: broken\nand 13 more\n37 of 42 records are invalid; mend them, or leave them \
                                out with data.on_error: skip"
            ),
            "{text}"
        );
        findings.records = 0;
        assert_eq!(findings.refused().unwrap().to_string(), "a:b.jsonl:3: broken (so are all 37 records)");
        assert!(findings.invalid(Error::Data("no such file".into())).is_err());
    }

    #[test]
    fn every_finding_has_its_note() {
        let mut findings = Findings { records: 9, filtered: 2, truncated: 3, ..Findings::default() };
        let schema = |name| Schema::parse(name).unwrap();
        findings.record(schema("hh-rlhf"), Kind::pair(0.0));
        findings.record(schema("preference"), Kind::PAIR);
        findings.lost(&Origin::new("t", 4), "<sys>\n");
        findings.lost(&Origin::new("t", 5), "x");
        findings.dropped.add("t:7".into(), "too long".into());
        let notes = findings.notes().join("\n");
        for part in [
            "format: hh-rlhf (1 records), preference (1 records)",
            "2 records were left out by data.filter",
            "1 of 11 pairs have a label other than 1; 1 are below 0.5",
            "warning: in 2 of 11 records",
            "t:4: \"<sys>\\n\" (and 1 more)",
            "3 of 11 records were truncated",
            "1 of 11 records were left out: t:7: too long",
        ] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
        assert!(Findings { records: 3, ..Findings::default() }.notes().is_empty());
        let mut ties = Findings::default();
        (0..2).for_each(|_| ties.record(schema("preference"), Kind::pair(0.5)));
        assert!(ties.notes().join("\n").contains("the label of every pair is 0.5"), "{:?}", ties.notes());
        ties.record(schema("preference"), Kind::pair(0.6));
        assert!(!ties.notes().join("\n").contains("every pair"), "{:?}", ties.notes());
    }
}
