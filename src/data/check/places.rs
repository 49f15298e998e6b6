//! Origins in eight bytes each: the files once, and for each record its file's number and its line.

use std::sync::Arc;

use crate::data::Origin;

/// The place of a record; ordered as the records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    file: u32,
    line: u32,
}

/// The files of a data set, in order.
#[derive(Clone, Debug, Default)]
pub struct Files(Vec<Arc<str>>);

impl Files {
    /// Returns the place of a record, whose file is the last one so far or a new one.
    pub fn place(&mut self, origin: &Origin) -> Place {
        if self.0.last().is_none_or(|last| *last != origin.file) {
            self.0.push(origin.file.clone());
        }
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Place { file: number(self.0.len() - 1), line: number(origin.line) }
    }

    /// Returns the origin as `file:line`.
    pub fn named(&self, place: Place) -> String {
        let file = self.0.get(place.file as usize).map_or("", |file| file);
        format!("{file}:{}", place.line)
    }
}
