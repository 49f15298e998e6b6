//! Records of files, of the Hub and of the embedded data, made into examples for a model.

use std::path::PathBuf;

use super::{embedded, hub};
use crate::data::dataset::Builder;
use crate::data::{
    ChatTokenizer, DataConfig, Dataset, Feed, Findings, Ingest, Input, OnError, Record, RecordReader,
    Sources, Wanted, check_positions, source,
};
use crate::error::{Error, Result};
use crate::files::{self, CacheChoice};
use crate::model::spec::DecoderSpec;

/// Files of more bytes than this are tokenized into a file of the cache, smaller ones into memory.
const LARGE: u64 = 64 << 20;

/// Records as token ids, checked against the model.
#[derive(Clone, Debug, Default)]
pub struct Pairs {
    /// Those that can be scored.
    pub examples: Dataset,
    /// What was cut, left out or looks wrong, in words; empty if there is nothing to say.
    pub notes: Vec<String>,
    /// The same as counts.
    pub findings: Findings,
}

/// The model that records are tokenized for.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    /// Its vocabulary and positions.
    pub spec: &'a DecoderSpec,
    /// Its tokenizer and template.
    pub tokenizer: &'a ChatTokenizer,
}

/// Returns the inputs of `sources`: files, data sets of the Hub, or the embedded data, with how their rows are read.
///
/// # Errors
/// Fails if a file is missing, or a setting is invalid.
pub(crate) fn feeds(sources: &Sources, config: &DataConfig, wanted: Wanted) -> Result<Vec<Feed>> {
    let feed = |found: &crate::data::DataSource| -> Result<Feed> {
        let path = found.path();
        let named = match path.strip_prefix(hub::PREFIX) {
            Some(dataset) => hub::dataset(dataset)?,
            None => vec![embedded::path(&path)?.map_or(path, |p| p.display().to_string())],
        };
        let inputs = source::resolve(&named.into_iter().collect())?;
        Ok(Feed { inputs, reader: RecordReader::of(config, found)?.wanting(wanted) })
    };
    sources.0.iter().map(feed).collect()
}

impl Reader<'_> {
    /// Reads and tokenizes `sources` with the settings of `config`.
    ///
    /// # Errors
    /// Fails if a file is missing, records are invalid (unless they are skipped), nothing is left, or tokens do not fit
    /// the model.
    pub(crate) fn read(&self, sources: &Sources, config: &DataConfig) -> Result<Pairs> {
        self.read_as(sources, config, Wanted::Whole)
    }

    /// As [`Reader::read`], with what is wanted of the records.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub(crate) fn read_as(&self, sources: &Sources, config: &DataConfig, wanted: Wanted) -> Result<Pairs> {
        let feeds = feeds(sources, config, wanted)?;
        for input in feeds.iter().flat_map(|feed| &feed.inputs) {
            log::debug!("data: {}", input.path().map_or("memory".into(), |path| path.display().to_string()));
        }
        let path = self.stored_at(&feeds, sources, config, wanted)?;
        if let Some(path) = path.as_deref().filter(|path| path.exists()) {
            match open(path) {
                Ok((examples, findings)) => {
                    log::info!("tokenized data: {}", path.display());
                    return self.checked(examples.cut_to(config.truncation()), findings, sources);
                }
                // It can be made again.
                Err(error) => log::warn!("{error}; the data are tokenized again"),
            }
        }
        let mut builder = path.as_deref().map_or_else(|| Ok(Builder::default()), Builder::in_file)?;
        let findings = self.ingest(config, wanted).run(&feeds, &mut builder)?;
        if let (OnError::Stop, Some(error)) = (config.on_error, findings.refused()) {
            return Err(error);
        }
        let note = serde_json::to_string(&findings).map_err(|e| Error::Data(e.to_string()))?;
        self.checked(builder.finish(&note)?.cut_to(config.truncation()), findings, sources)
    }

    /// Tokenizes records that are in memory.
    ///
    /// # Errors
    /// Same as [`Reader::read`].
    pub(crate) fn tokenize(&self, records: &[Record], config: &DataConfig) -> Result<Pairs> {
        let mut builder = Builder::default();
        let findings = self.ingest(config, Wanted::Whole).records(records, &mut builder)?;
        if let Some(error) = findings.refused() {
            return Err(error);
        }
        self.checked(builder.finish("")?.cut_to(config.truncation()), findings, &config.train)
    }

    fn ingest(&self, config: &DataConfig, wanted: Wanted) -> Ingest<'_> {
        let (truncation, limit) = (config.truncation(), config.limit);
        Ingest { tokenizer: self.tokenizer, truncation, vocab_size: self.spec.vocab_size, limit, wanted }
    }

    fn checked(&self, examples: Dataset, findings: Findings, sources: &Sources) -> Result<Pairs> {
        if findings.records == 0 {
            return Err(Error::Data(no_records(&findings, sources)));
        }
        if let (true, Some((place, why))) = (examples.is_empty(), findings.dropped.first.first()) {
            return Err(Error::Data(format!(
                "nothing is left to train on: all {} records were dropped, {place} because {why}; raise data.max_length, or \
                 set data.max_prompt_length to keep the end of long prompts",
                findings.records
            )));
        }
        check_positions(&examples, self.spec.max_positions)?;
        Ok(Pairs { examples, notes: findings.notes(), findings })
    }

    /// Returns the file of the cache for these data, whether or not it exists; `None` for data that stay in memory.
    fn stored_at(
        &self,
        feeds: &[Feed],
        sources: &Sources,
        config: &DataConfig,
        wanted: Wanted,
    ) -> Result<Option<PathBuf>> {
        let files: Option<Vec<_>> = feeds.iter().flat_map(|feed| &feed.inputs).map(Input::path).collect();
        let (Some(files), Some(directory)) = (files, config.cache.directory("data")) else { return Ok(None) };
        let size = |path: &&std::path::Path| std::fs::metadata(path).map_or(0, |found| found.len());
        if config.cache == CacheChoice::Auto && files.iter().map(size).sum::<u64>() < LARGE {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        // The number rises whenever rows are read, checked or warned of in another way than before.
        hasher.update(b"dpo-lora tokenized data 4\n");
        for path in files {
            // Names are part of it, since messages name them.
            hasher.update(path.as_os_str().as_encoded_bytes()).update(b"\0");
            hasher.update(files::content_hash(path, &directory)?.as_bytes());
        }
        let settings = DataConfig { cache: CacheChoice::Auto, ..config.clone() };
        let read_by = (sources, settings, self.spec.vocab_size);
        hasher.update(serde_json::to_string(&read_by).map_err(|e| Error::Data(e.to_string()))?.as_bytes());
        if let Some(tag) = wanted.tag() {
            hasher.update(tag.as_bytes());
        }
        self.tokenizer.identify(&mut hasher)?;
        Ok(Some(directory.join(format!("{}.tokens", &hasher.finalize().to_hex()[..32]))))
    }
}

/// Why there are no records in `sources`.
fn no_records(findings: &Findings, sources: &Sources) -> String {
    let skipped = &findings.invalid;
    if let Some((place, why)) = skipped.first.first() {
        let filtered = match findings.filtered {
            0 => String::new(),
            filtered => format!(" ({filtered} more were left out by data.filter)"),
        };
        let all = match skipped.count {
            1 => "the only one is invalid and was".into(),
            count => format!("all {count} are invalid and were"),
        };
        return format!(
            "no records in {sources} can be used: {all} skipped (data.on_error: skip){filtered}; the first is {place}: {why}; see \
             whether this is the right file, or mend the records"
        );
    }
    if findings.filtered > 0 {
        let filtered = findings.filtered;
        return format!(
            "no records in {sources}: data.filter leaves out all {filtered}; give it another condition"
        );
    }
    if sources.0.iter().any(|source| source.path() == "-") {
        return format!(
            "no records in {sources}: standard input is empty; a run that read it needs the same data again when it is resumed"
        );
    }
    format!("no records in {sources}: every file is empty")
}

fn open(path: &std::path::Path) -> Result<(Dataset, Findings)> {
    let (examples, note) = Dataset::open(path)?;
    let findings =
        serde_json::from_str(&note).map_err(|e| Error::Data(format!("{}: {e}", path.display())))?;
    Ok((examples, findings))
}

/// Returns the data set that each record names in its `source`, by the number of the record; records without one are left out.
///
/// # Errors
/// If the data cannot be read.
pub fn sources_of(source: &str) -> Result<std::collections::BTreeMap<u64, String>> {
    let sources = Sources::from(source);
    let config = DataConfig::new(sources.clone());
    let (mut found, mut number) = (std::collections::BTreeMap::new(), 0);
    for feed in feeds(&sources, &config, Wanted::Whole)? {
        for input in &feed.inputs {
            for row in input.rows()? {
                let Some(record) = feed.reader.read(row?)? else { continue };
                if let Some(name) = record.source {
                    found.insert(number, name.to_string());
                }
                number += 1;
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::cases::Cases;

    #[test]
    fn why_there_are_no_records_is_said() {
        let sources = Sources::from("held-out.jsonl");
        let said = |findings: Findings| no_records(&findings, &sources);
        let first = vec![("held-out.jsonl:1".to_string(), "chosen is empty".to_string())];
        let cases = |count: usize| Cases { count, first: first.clone() };
        let all = said(Findings { invalid: cases(9), filtered: 2, ..Findings::default() });
        for words in [
            "no records in held-out.jsonl can be used",
            "all 9 are invalid and were skipped (data.on_error: skip) (2 more were left out by data.filter)",
            "the first is held-out.jsonl:1: chosen is empty;",
        ] {
            assert!(all.contains(words), "{words} in {all}");
        }
        assert!(
            said(Findings { invalid: cases(1), ..Findings::default() }).contains("the only one is invalid")
        );
        assert!(
            said(Findings { filtered: 3, ..Findings::default() }).contains("data.filter leaves out all 3")
        );
        assert!(said(Findings::default()).contains("every file is empty"));
    }
}
