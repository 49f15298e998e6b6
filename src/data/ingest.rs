//! Reads, tokenizes and truncates records as a stream, so that memory does not grow with the data.

use std::sync::mpsc::{SyncSender, sync_channel};

use super::dataset::Builder;
use super::doubt::Doubt;
use super::example::Example;
use super::findings::Findings;
use super::records::{Record, RecordReader};
use super::source::Input;
use super::tokenize::{check_vocab, tokenize};
use super::tokenizer::ChatTokenizer;
use super::truncate::{Outcome, Truncation};
use super::wanted::Wanted;
use crate::error::{Error, Result};
use rayon::prelude::*;

/// The number of records that are tokenized at a time, on all threads.
const CHUNK: usize = 1024;
/// The bytes of their texts from which on there are fewer. Four chunks are in memory at once.
const CHUNK_BYTES: usize = 16 << 20;

/// The inputs of one source and how their rows are read.
#[derive(Debug)]
pub struct Feed {
    /// The files.
    pub inputs: Vec<Input>,
    /// Reads their rows.
    pub reader: RecordReader,
}

/// How records become examples.
#[derive(Clone, Copy, Debug)]
pub struct Ingest<'a> {
    /// The tokenizer and its chat template.
    pub tokenizer: &'a ChatTokenizer,
    /// The limits of each example.
    pub truncation: Truncation,
    /// The number of tokens that the model knows.
    pub vocab_size: usize,
    /// The number of valid records after which reading stops.
    pub limit: Option<usize>,
    /// What is taken of each record.
    pub wanted: Wanted,
}

/// A valid record, or why there is none.
type Parsed = Result<Record>;

impl Ingest<'_> {
    /// Reads all records of `feeds` into `builder`. Invalid records are among the findings.
    ///
    /// # Errors
    /// Fails if a file cannot be read, a token does not exist in the model, or the disk is full.
    pub fn run(&self, feeds: &[Feed], builder: &mut Builder) -> Result<Findings> {
        let mut findings = Findings::default();
        let (sender, chunks) = sync_channel::<(usize, Vec<Parsed>)>(2);
        std::thread::scope(|scope| {
            // Rows are parsed in order on a thread of their own while the others tokenize.
            let rows = move || {
                feeds.iter().enumerate().try_fold(0, |filtered, (source, feed)| {
                    read(source, feed, self.limit, &sender).map(|more| filtered + more)
                })
            };
            let reading = std::thread::Builder::new().spawn_scoped(scope, rows).map_err(|error| {
                Error::Data(format!(
                    "the system refuses a thread to read data ({error}); see `ulimit -u` and `ulimit -v`"
                ))
            })?;
            for (source, chunk) in chunks {
                if !self.chunk(source, chunk, builder, &mut findings)? {
                    break;
                }
            }
            // A reader that has lost its receiver has stopped because the limit was reached.
            match reading.join() {
                Ok(Some(filtered)) => findings.filtered = filtered,
                Ok(None) => {}
                Err(panic) => std::panic::resume_unwind(panic),
            }
            Ok(findings)
        })
    }

    /// Tokenizes records that are in memory.
    ///
    /// # Errors
    /// Fails if a token does not exist in the model.
    pub fn records(&self, records: &[Record], builder: &mut Builder) -> Result<Findings> {
        let mut findings = Findings::default();
        for chunk in records.chunks(CHUNK) {
            self.chunk(0, chunk.iter().cloned().map(Ok).collect(), builder, &mut findings)?;
        }
        Ok(findings)
    }

    /// Adds the examples of a chunk, in order. Returns whether more are wanted.
    fn chunk(
        &self,
        source: usize,
        records: Vec<Parsed>,
        builder: &mut Builder,
        findings: &mut Findings,
    ) -> Result<bool> {
        let outcomes: Vec<_> = records.into_par_iter().map(|record| self.example(record?)).collect();
        for outcome in outcomes {
            if self.limit.is_some_and(|limit| findings.records >= limit) {
                return Ok(false);
            }
            match outcome {
                Err(error) => findings.invalid(error)?,
                Ok(Ingested { record, example, lost, doubts, outcome }) => {
                    let number = findings.records;
                    findings.record(record.schema, record.kind);
                    findings.doubts.add(&record.origin, doubts);
                    if let Some(text) = lost {
                        findings.lost(&record.origin, &text);
                    }
                    if let Outcome::Dropped(why) = outcome {
                        findings.dropped.add(record.origin.to_string(), why);
                        continue;
                    }
                    findings.truncated += usize::from(outcome == Outcome::Truncated);
                    match self.wanted {
                        Wanted::Prompts => {
                            let text = record.content.prompt_text();
                            builder.push_prompt(&example, &text, (source, number));
                        }
                        _ => builder.push(&example, source, number),
                    }
                }
            }
        }
        builder.flush()?;
        Ok(true)
    }

    fn example(&self, mut record: Record) -> Result<Ingested> {
        let unused = record.trim(self.wanted);
        let tokenized = tokenize(self.tokenizer, &record)?;
        let mut example = tokenized.example;
        let (bos, pad) = (self.tokenizer.bos_id(), self.tokenizer.padding());
        let outcome = self.wanted.fit(&mut example, self.truncation, bos, pad);
        if !matches!(outcome, Outcome::Dropped(_)) {
            // The tokenizer belongs to another model: no record is at fault.
            check_vocab(self.tokenizer, &example, self.vocab_size).map_err(|e| Error::Data(e.to_string()))?;
        }
        let mut doubts = std::mem::take(&mut record.doubts);
        doubts.extend(tokenized.doubts.into_iter().chain(unused));
        Ok(Ingested { record, example, lost: tokenized.lost, doubts, outcome })
    }
}

struct Ingested {
    record: Record,
    example: Example,
    lost: Option<String>,
    doubts: Vec<Doubt>,
    outcome: Outcome,
}

/// Sends the records of a source in chunks, and returns how many rows its filter left out; `None` if nobody receives
/// them any longer.
fn read(
    source: usize,
    feed: &Feed,
    limit: Option<usize>,
    out: &SyncSender<(usize, Vec<Parsed>)>,
) -> Option<usize> {
    let size = limit.map_or(CHUNK, |limit| limit.clamp(1, CHUNK));
    let (mut filtered, mut bytes, mut chunk) = (0, 0, Vec::with_capacity(size));
    for input in &feed.inputs {
        let rows = match input.rows() {
            Ok(rows) => rows,
            // A file that cannot be read at all is never skipped as if it were a single record.
            Err(Error::Record { file, line, message }) => {
                chunk.push(Err(Error::Data(format!("{file}:{line}: {message}"))));
                continue;
            }
            Err(error) => {
                chunk.push(Err(error));
                continue;
            }
        };
        let mut is_empty = feed.inputs.len() > 1;
        for row in rows {
            is_empty = false;
            match row.and_then(|row| feed.reader.read(row)) {
                Ok(None) => filtered += 1,
                Ok(Some(record)) => {
                    bytes += record.content.bytes();
                    chunk.push(Ok(record));
                }
                Err(error) => chunk.push(Err(error)),
            }
            if chunk.len() >= size || bytes >= CHUNK_BYTES {
                bytes = 0;
                out.send((source, std::mem::replace(&mut chunk, Vec::with_capacity(size)))).ok()?;
            }
        }
        if let Some(path) = input.path().filter(|_| is_empty) {
            log::warn!("{}: the file is empty and adds no records to those of the others", path.display());
        }
    }
    out.send((source, chunk)).ok()?;
    Some(filtered)
}

#[cfg(test)]
mod tests {
    use super::super::content::Content;
    use super::super::example::{Kind, Origin};
    use super::super::schema::Schema;
    use super::super::tokenizer::tests::{CONFIG, tokenizer};
    use super::super::truncate::TruncationMode;
    use super::*;

    fn record(prompt: &str, chosen: &str, rejected: &str) -> Record {
        let content = Content::Text { prompt: prompt.into(), answers: vec![chosen.into(), rejected.into()] };
        let (origin, kind) = (Origin::new("t", 5), Kind::pair(0.5));
        Record {
            origin,
            source: None,
            schema: Schema::ALL[0],
            labelled: true,
            kind,
            content,
            doubts: Vec::new(),
        }
    }

    fn ingest(tokenizer: &ChatTokenizer, max_length: usize) -> Ingest<'_> {
        let mode = TruncationMode::KeepStart;
        let truncation = Truncation { max_length: Some(max_length), mode, ..Truncation::default() };
        Ingest { tokenizer, truncation, vocab_size: 100, limit: None, wanted: Wanted::Whole }
    }

    #[test]
    fn the_chosen_answer_of_a_certain_pair_is_a_text() {
        let tokenizer = tokenizer(false, CONFIG);
        let (soft, mut certain) = (record("a", "b b b", "c"), record("a", "b b b", "c"));
        certain.kind = Kind::PAIR;
        let mut builder = Builder::default();
        let ingest = Ingest { wanted: Wanted::Preferred, ..ingest(&tokenizer, 99) };
        ingest.records(&[soft, certain], &mut builder).unwrap();
        let examples = builder.finish("").unwrap();
        let (pair, text) = (examples.get(0).unwrap().unwrap(), examples.get(1).unwrap().unwrap());
        assert_eq!((pair.completions.len(), pair.kind), (2, Kind::pair(0.5)));
        assert_eq!((text.kind, &text.completions[..]), (Kind::Text, &pair.completions[..1]));
    }

    #[test]
    fn dropped_and_truncated_are_counted_in_order() {
        let records = [
            record("a", "b", "c"),
            record("c c c c", "b", "c"),
            record("c", "a c b", "b"),
            record("a", "b b b", "b b c"),
        ];
        let (tokenizer, mut builder) = (tokenizer(true, CONFIG), Builder::default());
        let found = ingest(&tokenizer, 4).records(&records, &mut builder).unwrap();
        let examples: Vec<Example> = builder.finish("").unwrap().iter().map(Result::unwrap).collect();
        assert_eq!((examples.len(), found.records, found.truncated), (2, 4, 1));
        assert_eq!(examples[1].completions, [vec![2, 5], vec![3, 1]]);
        assert_eq!((found.labelled, found.inverted), (4, 0));
        let why: Vec<&str> = found.dropped.first.iter().map(|(_, why)| why.as_str()).collect();
        assert!(why[0].contains("prompt of 8 tokens") && why[1].contains("are equal"), "{why:?}");
    }

    #[test]
    fn files_are_read_in_order_to_the_limit_and_bad_rows_are_listed() {
        let pair = |i: usize| {
            format!("{{\"prompt\": \"a\", \"chosen\": \"{}\", \"rejected\": \"c\"}}\n", "b".repeat(i))
        };
        let bad = "{\"prompt\": \"a\", \"chosen\": \"b\"}\n";
        let text: String =
            (1..=2500).map(|i| if i % 1000 == 0 { bad.into() } else { pair(i % 9 + 1) }).collect();
        let feed = || Feed { inputs: vec![Input::text("t", text.clone())], reader: RecordReader::default() };
        let tokenizer = tokenizer(true, CONFIG);
        let read = |limit| {
            let mut builder = Builder::default();
            let ingest = Ingest { limit, ..ingest(&tokenizer, 99) };
            let found = ingest.run(&[feed(), feed()], &mut builder).unwrap();
            (found, builder.finish("").unwrap())
        };
        let (found, all) = read(None);
        assert_eq!((found.records, found.invalid.count, all.len()), (4996, 4, 4996));
        assert_eq!(found.invalid.first[1].0, "t:2000");
        let places: Vec<_> = all.entries().map(|entry| (entry.source, entry.line)).collect();
        assert!(places.is_sorted());
        let (found, some) = read(Some(1500));
        assert_eq!((found.records, some.len()), (1500, 1500));
        assert_eq!(some.fingerprint(), all.select(0..1500).fingerprint());
    }
}
