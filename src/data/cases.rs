//! Counts of what was found, with the first places.

use serde::{Deserialize, Serialize};

/// The number of cases that are listed, of each kind; the others are counted.
pub const LISTED: usize = 24;
/// The number of different texts of a column from which on it is no category.
const DIFFERENT: usize = 4;
/// The number of columns of which texts are kept.
const COLUMNS: usize = 24;

/// The number of times that something was found, and the first place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cases {
    /// The number of cases.
    pub count: usize,
    /// The first case: place and description.
    pub first: Vec<(String, String)>,
}

impl Cases {
    pub(super) fn add(&mut self, place: String, what: String) {
        self.count += 1;
        if self.first.len() < LISTED {
            self.first.push((place, what));
        }
    }

    /// Returns the first case as `file:line: what`, and the number of further cases.
    pub(super) fn described(&self) -> Option<String> {
        let (place, what) = self.first.first()?;
        let more = if self.count > 1 { format!(" (and {} more)", self.count - 1) } else { String::new() };
        Some(format!("{place}: {what}{more}"))
    }

    /// Counts a record with texts in columns, each as `` `name` ("text") ``. The first different ones of each column are
    /// kept.
    pub(super) fn add_columns(&mut self, place: &str, texts: impl Iterator<Item = String>) {
        self.count += 1;
        for what in texts {
            let name = column(&what);
            // The name stands at the beginning, behind its mark.
            let is_of = |known: &str| {
                let rest = known.strip_prefix('`').and_then(|rest| rest.strip_prefix(name));
                rest.is_some_and(|rest| rest.starts_with("` ("))
            };
            let known = self.first.iter().filter(|(_, known)| is_of(known));
            let (count, repeated) = known
                .fold((0, false), |(count, repeated), (_, known)| (count + 1, repeated || *known == what));
            if count < DIFFERENT && !repeated && self.first.len() < COLUMNS * DIFFERENT {
                self.first.push((place.to_owned(), what));
            }
        }
    }

    /// Returns the columns whose texts vary, or are sentences and no categories, and the first text of one of them with its
    /// place.
    pub(super) fn columns(&self) -> Option<(Vec<&str>, String)> {
        let mut names: Vec<&str> = self.first.iter().map(|(_, what)| column(what)).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| {
            let texts: Vec<&String> =
                self.first.iter().filter(|(_, what)| column(what) == *name).map(|(_, what)| what).collect();
            texts.len() >= DIFFERENT || texts.iter().any(|what| is_sentence(what))
        });
        let (place, what) = self.first.iter().find(|(_, what)| names.contains(&column(what)))?;
        let text = what.split_once("` (").map_or(what.as_str(), |(_, text)| text.trim_end_matches(')'));
        Some((names, format!("{place}: {text}")))
    }
}

/// The name in `` `name` ("text") ``.
fn column(what: &str) -> &str {
    what.trim_start_matches('`').split_once("` (").map_or(what, |(name, _)| name)
}

/// Whether the text of a column ends like a sentence, or is too long to be shown.
fn is_sentence(what: &str) -> bool {
    let text = what.trim_end_matches(['"', ')']);
    text.ends_with(['.', '?', '!', ':', '…', '。', '？', '！'])
}
