//! Which files of a split are read: those of one format, as `datasets` chooses it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use crate::error::{Error, Result};

/// Extensions that `data` reads, and the format of each. Of formats with equally many files, the one that stands first here is read.
const READABLE: [(&str, &str); 6] = [
    ("parquet", "parquet"),
    ("jsonl", "json"),
    ("ndjson", "json"),
    ("json", "json"),
    ("csv", "csv"),
    ("tsv", "csv"),
];
/// Extensions of data files that are not supported, to be named in messages.
const OTHER: [&str; 7] = ["arrow", "gz", "zst", "xz", "zip", "tar", "txt"];

/// The format of an extension that is read.
fn format(extension: &str) -> Option<&'static str> {
    READABLE.iter().find(|(known, _)| *known == extension).map(|(_, format)| *format)
}

/// Whether a file of this name may hold data.
pub(super) fn is_known(name: &str) -> bool {
    let extension = extension(name);
    format(&extension).is_some() || OTHER.contains(&extension.as_str())
}

/// The extension that tells the format: that of the file inside, if a readable text is compressed.
fn extension(name: &str) -> String {
    let last = |name: &str| {
        let file = name.rsplit('/').next().unwrap_or(name);
        file.rsplit_once('.').map(|(stem, e)| (stem.to_owned(), e.to_ascii_lowercase()))
    };
    let Some((stem, outer)) = last(name) else { return String::new() };
    match last(&stem) {
        Some((_, inner))
            if ["gz", "zst"].contains(&outer.as_str()) && format(&inner).is_some_and(|f| f != "parquet") =>
        {
            inner
        }
        _ => outer,
    }
}

/// The files of `names` that are read, and a note about those that are left out. A data set that has its records in two
/// formats has them twice: the format of the most frequent extension is read.
///
/// # Errors
/// [`Error::Hub`] if none can be read.
pub(super) fn choose<'a>(
    wanted: &impl Display,
    names: BTreeSet<&'a str>,
) -> Result<(Vec<&'a str>, Option<String>)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in &names {
        *counts.entry(extension(name)).or_default() += 1;
    }
    let count = |extension: &str| counts.get(extension).copied().unwrap_or(0);
    let mut best: Option<(&str, &str)> = None;
    for (extension, format) in READABLE {
        if count(extension) > best.map_or(0, |(other, _)| count(other)) {
            best = Some((extension, format));
        }
    }
    let Some((_, chosen)) = best else {
        let extensions: Vec<&str> = READABLE.iter().map(|(extension, _)| *extension).collect();
        return Err(Error::Hub(match names.first() {
            None => format!("{wanted}: the repository has no {} files", extensions.join(", ")),
            Some(first) => format!(
                "{wanted} has {} data file(s), all of them {} (such as {first}), which cannot be read; the Hub converts many \
                 data sets to Parquet: try the revision refs/convert/parquet, or write one with \
                 datasets.load_dataset(...).to_parquet(\"pairs.parquet\") and name that file",
                names.len(),
                Vec::from_iter(counts.into_keys()).join(", "),
            ),
        }));
    };
    let (read, left): (Vec<&str>, Vec<&str>) =
        names.into_iter().partition(|name| format(&extension(name)) == Some(chosen));
    let others: BTreeSet<String> = left.iter().map(|name| extension(name)).collect();
    let note = (!left.is_empty()).then(|| {
        format!(
            "{wanted}: {} file(s) of other formats than {chosen} are left out: {}",
            left.len(),
            Vec::from_iter(others).join(", ")
        )
    });
    Ok((read, note))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen<'a>(names: &[&'a str]) -> Result<(Vec<&'a str>, Option<String>)> {
        choose(&"o/n", names.iter().copied().collect())
    }

    #[test]
    fn one_format_is_read() {
        let (read, note) = chosen(&["a.jsonl", "a.parquet"]).unwrap();
        assert_eq!(read, ["a.parquet"]);
        assert!(note.unwrap().contains("1 file(s) of other formats than parquet are left out: jsonl"));
        let (read, note) = chosen(&["a.csv", "b.jsonl.gz", "c.json", "d.jsonl", "x.parquet.gz"]).unwrap();
        assert_eq!(read, ["b.jsonl.gz", "c.json", "d.jsonl"]);
        assert!(note.unwrap().contains("2 file(s) of other formats than json are left out: csv, gz"));
        assert_eq!(chosen(&["a.tsv", "b.csv"]).unwrap(), (vec!["a.tsv", "b.csv"], None));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = chosen(&["a.arrow", "b.zip"]).unwrap_err().to_string();
        for part in ["2 data file(s), all of them arrow, zip (such as a.arrow)", "refs/convert/parquet"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(
            chosen(&[]).unwrap_err().to_string().contains("no parquet, jsonl, ndjson, json, csv, tsv files")
        );
    }
}
