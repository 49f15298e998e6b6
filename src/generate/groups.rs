//! The completions of one request after the other.

use std::collections::BTreeMap;

use super::completion::Completion;
use crate::error::Result;

/// Groups completions, which come in the order in which they finish, by their request. See
/// [`Rollouts::by_request`](super::Rollouts::by_request).
pub struct Groups<I> {
    completions: I,
    /// The number of completions of each request.
    counts: Vec<usize>,
    next: usize,
    /// Completions of later requests.
    early: BTreeMap<usize, Vec<Completion>>,
}

impl<I> Groups<I> {
    pub(super) fn new(completions: I, counts: Vec<usize>) -> Self {
        Self { completions, counts, next: 0, early: BTreeMap::new() }
    }
}

impl<I: Iterator<Item = Result<Completion>>> Iterator for Groups<I> {
    type Item = Result<Vec<Completion>>;

    fn next(&mut self) -> Option<Self::Item> {
        let count = *self.counts.get(self.next)?;
        while self.early.get(&self.next).map_or(0, Vec::len) < count {
            match self.completions.next()? {
                Ok(completion) => self.early.entry(completion.prompt).or_default().push(completion),
                Err(error) => {
                    self.counts.clear();
                    return Some(Err(error));
                }
            }
        }
        let mut group = self.early.remove(&self.next).unwrap_or_default();
        group.sort_by_key(|completion| completion.index);
        self.next += 1;
        Some(Ok(group))
    }
}
