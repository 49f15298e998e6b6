//! Counts of what was found, with the first places.

use serde::{Deserialize, Serialize};

/// The number of cases that are listed, of each kind; the others are counted.
pub const LISTED: usize = 24;

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
}
