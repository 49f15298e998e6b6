//! Tokenized examples, in memory or in a mapped file, and views over them.

mod entry;
mod file;
mod text;

use std::path::Path;
use std::sync::Arc;

pub use self::entry::Entry;
use self::file::Mapped;
use super::example::{Example, Origin};
use super::truncate::Truncation;
use crate::error::{Error, Result};
use crate::objective::Needs;

/// Examples in an order. Cloning is cheap: views share the examples.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    examples: Arc<Examples>,
    /// The indices of the examples in the view's order; `None` for all of them.
    order: Option<Arc<[u32]>>,
    /// The limits to which the sequences were cut.
    limit: Truncation,
}

/// The tokens of all examples in one row, and one entry per example.
#[derive(Debug, Default)]
struct Examples {
    storage: Storage,
    /// The names of the files, by [`Entry::file`].
    files: Vec<Arc<str>>,
}

#[derive(Debug)]
enum Storage {
    Memory { tokens: Vec<u32>, entries: Vec<Entry> },
    Mapped(Mapped),
}

impl Default for Storage {
    fn default() -> Self {
        Self::Memory { tokens: Vec::new(), entries: Vec::new() }
    }
}

impl Examples {
    fn entries(&self) -> &[Entry] {
        match &self.storage {
            Storage::Memory { entries, .. } => entries,
            Storage::Mapped(mapped) => mapped.entries(),
        }
    }

    fn tokens(&self) -> &[u32] {
        match &self.storage {
            Storage::Memory { tokens, .. } => tokens,
            Storage::Mapped(mapped) => mapped.tokens(),
        }
    }
}

impl Dataset {
    /// Opens a file that [`Builder::finish`] wrote, and returns what was stored with it.
    ///
    /// # Errors
    /// Returns [`Error::Data`] if the file is damaged or is not such a file.
    pub fn open(path: &Path) -> Result<(Self, String)> {
        let (mapped, header) = Mapped::open(path)?;
        let examples = Examples {
            storage: Storage::Mapped(mapped),
            files: header.files.into_iter().map(Arc::from).collect(),
        };
        Ok((Self { examples: Arc::new(examples), order: None, limit: Truncation::default() }, header.note))
    }

    /// Notes the limits to which the sequences were cut. They also hold for sequences that are put together from several
    /// examples.
    #[must_use]
    pub fn cut_to(self, limit: Truncation) -> Self {
        Self { limit, ..self }
    }

    /// Returns the limits to which the sequences were cut; there are none unless [`Dataset::cut_to`] noted them.
    pub fn limit(&self) -> Truncation {
        self.limit
    }

    /// Returns the number of examples.
    pub fn len(&self) -> usize {
        self.order.as_ref().map_or_else(|| self.examples.entries().len(), |order| order.len())
    }

    /// Whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns what is known of example `index` without reading its tokens.
    pub fn entry(&self, index: usize) -> Option<&Entry> {
        let index = match &self.order {
            Some(order) => *order.get(index)? as usize,
            None => index,
        };
        self.examples.entries().get(index)
    }

    /// Returns the entries in order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        (0..self.len()).filter_map(|index| self.entry(index))
    }

    /// Returns example `index`, or `None` beyond the last one.
    ///
    /// # Errors
    /// Returns [`Error::Data`] if the tokens on disk are not those that were written.
    pub fn get(&self, index: usize) -> Result<Option<Example>> {
        self.entry(index).map(|entry| self.read(entry)).transpose()
    }

    /// Returns the examples at `indices`.
    ///
    /// # Errors
    /// Same as [`Dataset::get`].
    pub fn gather(&self, indices: &[usize]) -> Result<Vec<Example>> {
        indices.iter().filter_map(|index| self.get(*index).transpose()).collect()
    }

    /// Returns the text of prompt `index` before any chat template, if it was kept; `None` also for other records.
    ///
    /// # Errors
    /// Returns [`Error::Data`] if the text on disk is not the one that was written.
    pub fn text(&self, index: usize) -> Result<Option<String>> {
        let Some(entry) = self.entry(index) else { return Ok(None) };
        entry.text(self.examples.tokens()).ok_or_else(|| self.damaged(entry))
    }

    /// Returns all examples in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Example>> {
        self.entries().map(|entry| self.read(entry))
    }

    /// Returns the origin of an example of this set.
    pub fn origin(&self, entry: &Entry) -> Origin {
        let file = self.examples.files.get(entry.file as usize).cloned().unwrap_or_else(|| "".into());
        Origin { file, line: entry.line as usize }
    }

    /// Returns the number of tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.entries().map(Entry::longest).max().unwrap_or(0)
    }

    /// Returns the number of tokens of the longest sequence that an objective with these needs may compute. If it needs
    /// mismatched completions, any prompt may stand before any completion.
    pub fn longest_for(&self, needs: Needs) -> usize {
        let longest = self.longest();
        if !needs.mismatched {
            return longest;
        }
        let prompt = self.entries().map(Entry::prompt).max().unwrap_or(0);
        let completion = self.entries().map(|entry| entry.longest() - entry.prompt()).max().unwrap_or(0);
        let together = prompt + completion;
        self.limit.max_length.map_or(together, |most| together.min(most)).max(longest)
    }

    /// Returns the examples at `order`, in that order; an index may occur several times.
    #[must_use]
    pub fn select(&self, order: impl IntoIterator<Item = usize>) -> Self {
        let at = |index: usize| match &self.order {
            Some(order) => order.get(index).copied(),
            None => u32::try_from(index).ok().filter(|_| index < self.len()),
        };
        let order: Vec<u32> = order.into_iter().filter_map(at).collect();
        Self { examples: self.examples.clone(), order: Some(order.into()), limit: self.limit }
    }

    /// Returns the number of examples of `other` whose tokens are those of an example of this set, and the
    /// origin of the first.
    pub fn shared(&self, other: &Self) -> Option<(usize, Origin)> {
        let own: std::collections::HashSet<_> = self.entries().map(|entry| entry.id).collect();
        let mut shared = other.entries().filter(|entry| own.contains(&entry.id));
        let first = other.origin(shared.next()?);
        Some((1 + shared.count(), first))
    }

    /// Returns the BLAKE3 hash over the ids and kinds of all examples, in order.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        self.entries().for_each(|entry| entry.hash_into(&mut hasher));
        hasher.finalize().to_hex().to_string()
    }

    /// Returns the tokens of the prompt of an example of this set, as they are stored; `None` if the set is damaged.
    pub fn prompt(&self, entry: &Entry) -> Option<&[u32]> {
        entry.prompt_tokens(self.examples.tokens())
    }

    fn read(&self, entry: &Entry) -> Result<Example> {
        let tokens = self.examples.tokens();
        let example = entry.example(tokens, self.origin(entry)).ok_or_else(|| self.damaged(entry))?;
        // Memory does not rot, and hashing costs as much as copying.
        if matches!(self.examples.storage, Storage::Mapped(_)) && example.id() != entry.id {
            return Err(self.damaged(entry));
        }
        Ok(example)
    }

    fn damaged(&self, entry: &Entry) -> Error {
        Error::Data(format!(
            "the tokenized copy of {} is damaged; delete the file in the cache that holds it (data.cache)",
            self.origin(entry)
        ))
    }
}

impl FromIterator<Example> for Dataset {
    fn from_iter<I: IntoIterator<Item = Example>>(examples: I) -> Self {
        let mut builder = Builder::default();
        examples.into_iter().for_each(|example| builder.push(&example, 0, 0));
        builder.in_memory()
    }
}

impl From<Vec<Example>> for Dataset {
    fn from(examples: Vec<Example>) -> Self {
        examples.into_iter().collect()
    }
}

/// Collects examples.
#[derive(Debug, Default)]
pub struct Builder {
    /// Tokens that are not written to the file yet, or all of them.
    tokens: Vec<u32>,
    /// The number of tokens that are in the file.
    written: u64,
    entries: Vec<Entry>,
    files: Vec<Arc<str>>,
    file: Option<file::Writer>,
}

/// The number of tokens that are collected before they are written.
const BUFFERED: usize = 1 << 20;

impl Builder {
    /// Creates a builder whose examples go to a file at `path`, which appears when [`Builder::finish`] succeeds.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the directory is not writable.
    pub fn in_file(path: &Path) -> Result<Self> {
        Ok(Self { file: Some(file::Writer::create(path)?), ..Self::default() })
    }

    /// Adds an example: number `record` of the records, from source `source`.
    pub fn push(&mut self, example: &Example, source: usize, record: usize) {
        self.add(example, None, (source, record));
    }

    /// As [`Builder::push`], of a prompt with its text before any chat template, which [`Dataset::text`] returns. The text is
    /// no part of the example's id, nor of the fingerprint.
    pub fn push_prompt(&mut self, example: &Example, text: &str, (source, record): (usize, usize)) {
        self.add(example, Some(text), (source, record));
    }

    fn add(&mut self, example: &Example, text: Option<&str>, (source, record): (usize, usize)) {
        let file = self.file_index(&example.origin.file);
        let offset = self.written + self.tokens.len() as u64;
        self.entries.push(Entry::new(example, offset, (source, file, record)));
        entry::append(&mut self.tokens, example, text);
    }

    /// Writes what has been collected, once it is worth a system call.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the disk is full.
    pub fn flush(&mut self) -> Result<()> {
        if let Some(file) = self.file.as_mut().filter(|_| self.tokens.len() >= BUFFERED) {
            file.tokens(&self.tokens)?;
            self.written += self.tokens.len() as u64;
            self.tokens.clear();
        }
        Ok(())
    }

    /// Returns the number of examples so far.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no example has been added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the examples; a file also keeps `note`.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the file cannot be written.
    pub fn finish(mut self, note: &str) -> Result<Dataset> {
        let Some(mut file) = self.file.take() else { return Ok(self.in_memory()) };
        file.tokens(&self.tokens)?;
        let tokens = self.written + self.tokens.len() as u64;
        let path = file.finish(tokens, &self.entries, &self.files, note)?;
        // They are read from the file now, and would be in memory twice.
        drop(self.entries);
        Ok(Dataset::open(&path)?.0)
    }

    fn in_memory(self) -> Dataset {
        let storage = Storage::Memory { tokens: self.tokens, entries: self.entries };
        let examples = Arc::new(Examples { storage, files: self.files });
        Dataset { examples, order: None, limit: Truncation::default() }
    }

    fn file_index(&mut self, name: &Arc<str>) -> usize {
        // Records of one file follow one another, so the last name is almost always the one.
        match self.files.iter().rposition(|known| known == name) {
            Some(index) => index,
            None => {
                self.files.push(name.clone());
                self.files.len() - 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::Kind;
    use super::*;

    fn examples() -> Vec<Example> {
        let example = |i: u32, kind, completions: &[&[u32]]| Example {
            prompt: (0..i).collect(),
            completions: completions.iter().map(|tokens| tokens.to_vec()).collect(),
            kind,
            origin: Origin::new(if i < 2 { "a.jsonl" } else { "b.jsonl" }, i as usize + 1),
        };
        vec![
            example(0, Kind::pair(0.25), &[&[7, 8], &[9]]),
            example(0, Kind::Pair { label: 1.0, margin: -1.5 }, &[&[7, 8], &[9, 1]]),
            example(1, Kind::Ranked, &[&[1], &[2, 3], &[4]]),
            example(2, Kind::Judged { desirable: false }, &[&[5, 6, 7]]),
            example(3, Kind::Text, &[&[1, 2]]),
            example(4, Kind::Judged { desirable: true }, &[&[3]]),
        ]
    }

    fn written(path: &Path) -> Dataset {
        let mut builder = Builder::in_file(path).unwrap();
        for (record, example) in examples().iter().enumerate() {
            builder.push(example, 1, record);
            builder.flush().unwrap();
        }
        builder.finish("the note").unwrap()
    }

    #[test]
    fn memory_and_file_return_what_was_pushed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x/data.tokens");
        written(&path);
        let (opened, note) = Dataset::open(&path).unwrap();
        assert_eq!(note, "the note");
        for set in [examples().into(), opened.clone()] {
            assert_eq!(set.iter().collect::<Result<Vec<_>>>().unwrap(), examples());
            assert_eq!((set.len(), set.longest()), (6, 5));
        }
        assert_eq!(opened.fingerprint(), Dataset::from(examples()).fingerprint());
        assert_eq!(opened.entry(3).unwrap().record, 3);
        let entry = *opened.entry(2).unwrap();
        assert_eq!((entry.packed(), entry.unpacked(), entry.scored()), (2, 7, 4));
        assert_eq!(opened.entry(0).unwrap().scored(), 1, "nothing predicts the first token");
    }

    #[test]
    fn views_select_and_repeat() {
        let set: Dataset = examples().into();
        let view = set.select([3, 1, 1, 9]);
        assert_eq!(view.gather(&[0, 1, 2, 3]).unwrap(), [3, 1, 1].map(|i| examples()[i].clone()));
        assert_eq!(view.select([1]).get(0).unwrap().unwrap(), examples()[1]);
        assert_ne!(view.fingerprint(), set.fingerprint());
    }

    #[test]
    fn the_longest_sequence_may_be_of_two_records() {
        let judged = |prompt: usize, completion: usize| Example {
            prompt: vec![1; prompt],
            completions: vec![vec![2; completion]],
            kind: Kind::Judged { desirable: true },
            origin: Origin::new("t", 1),
        };
        let set: Dataset = vec![judged(7, 2), judged(1, 5), judged(3, 3)].into();
        let mismatched = Needs { mismatched: true, ..Needs::PAIRS };
        assert_eq!((set.longest_for(Needs::PAIRS), set.longest_for(mismatched)), (9, 12));
        let limit = Truncation { max_length: Some(10), ..Truncation::default() };
        let cut = set.cut_to(limit).select([0, 1]);
        assert_eq!((cut.limit(), cut.longest_for(mismatched)), (limit, 10), "a view has the same limits");
        assert_eq!(cut.select([1]).longest_for(mismatched), 6);
    }

    #[test]
    fn prompts_keep_their_texts_in_memory_and_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("prompts.tokens");
        let prompt = |i: usize| Example {
            prompt: vec![5; i],
            completions: Vec::new(),
            kind: Kind::Prompt,
            origin: Origin::new("p.jsonl", i),
        };
        let filled = |mut builder: Builder| {
            builder.push_prompt(&prompt(1), "What is 2 + 2?", (0, 0));
            builder.push(&prompt(2), 0, 1);
            builder.push_prompt(&prompt(3), "é", (0, 2));
            builder.push(&examples()[4], 0, 3);
            builder.finish("").unwrap()
        };
        let texts = [Some("What is 2 + 2?".to_string()), None, Some("é".to_string()), None];
        let plain: Dataset = vec![prompt(1), prompt(2), prompt(3), examples()[4].clone()].into();
        for set in [filled(Builder::default()), filled(Builder::in_file(&path).unwrap())] {
            let found: Vec<Option<String>> = (0..4).map(|i| set.text(i).unwrap()).collect();
            assert_eq!(found, texts);
            assert_eq!(set.select([2, 0]).text(1).unwrap(), texts[0]);
            assert_eq!(set.get(2).unwrap().unwrap(), prompt(3));
            assert_eq!(set.fingerprint(), plain.fingerprint(), "a text changes no fingerprint");
        }
        assert_eq!(plain.text(0).unwrap(), None);
        // A byte of the text of the first prompt: behind the magic bytes, its token and two words.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8 + 4 + 8] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = Dataset::open(&path).unwrap().0.text(0).unwrap_err().to_string();
        assert!(error.contains("the tokenized copy of p.jsonl:1 is damaged"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.tokens");
        written(&path);
        let whole = std::fs::read(&path).unwrap();
        let reads = |bytes: &[u8]| -> Result<Vec<Example>> {
            std::fs::write(&path, bytes).unwrap();
            Dataset::open(&path)?.0.iter().collect()
        };
        assert_eq!(reads(&whole).unwrap(), examples());
        for cut in 0..whole.len() {
            assert!(reads(&whole[..cut]).is_err(), "cut to {cut}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x41;
            assert!(reads(&damaged).is_err(), "byte {at}");
        }
    }
}
