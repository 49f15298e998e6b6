//! What the names of files that are read together say of them: splits, shards, and other formats of the same records.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Words of the names of files, and the split that each means.
const SPLITS: [(&str, &str); 8] = [
    ("train", "train"),
    ("training", "train"),
    ("test", "test"),
    ("validation", "validation"),
    ("valid", "validation"),
    ("val", "validation"),
    ("dev", "validation"),
    ("eval", "validation"),
];

/// Whether a file is hidden, as shells understand it.
pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Describes files of several splits, with the first of each.
pub(super) fn splits(files: &[PathBuf]) -> Option<String> {
    let mut found: Vec<(&str, String)> = Vec::new();
    for path in files {
        let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
        let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
        let split = words.find_map(|word| SPLITS.iter().find(|(known, _)| *known == word));
        if let Some((_, split)) = split
            && found.iter().all(|(known, _)| known != split)
        {
            found.push((*split, path.display().to_string()));
        }
    }
    let names: Vec<String> = found.into_iter().map(|(_, name)| name).collect();
    (names.len() > 1).then(|| {
        format!(
            "{} are files of several splits and are read as one data set; name the files of one split (data.train, and \
             data.eval for another)",
            names.join(", ")
        )
    })
}

/// Describes the first two files whose names differ in nothing but format and compression.
pub(super) fn twins(files: &[PathBuf]) -> Option<String> {
    let mut seen: BTreeMap<PathBuf, &Path> = BTreeMap::new();
    for path in files {
        if let Some(other) = seen.insert(stem(path), path) {
            return Some(format!(
                "{} and {} differ in their format alone and are both read; if they hold the same records, name one of them",
                other.display(),
                path.display()
            ));
        }
    }
    None
}

/// The path without the extensions of compression and format.
fn stem(path: &Path) -> PathBuf {
    let packed = |e: &OsStr| ["gz", "gzip", "zst", "zstd"].iter().any(|known| e.eq_ignore_ascii_case(known));
    let unpacked = if path.extension().is_some_and(packed) { path.with_extension("") } else { path.into() };
    unpacked.with_extension("")
}

/// The name of one of several files, `NAME-00000-of-00003`: what stands before its number, the number, the number of
/// files, and what stands behind.
fn shard(name: &str) -> Option<(&str, usize, usize, &str)> {
    let (head, tail) = name.rsplit_once("-of-")?;
    let (before, number) = head.split_at_checked(head.len().checked_sub(5)?)?;
    let (count, behind) = tail.split_at_checked(5)?;
    let read = |digits: &str| {
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<usize>().ok()).flatten()
    };
    let is_longer = before.ends_with(|c: char| c.is_ascii_digit());
    let goes_on = behind.starts_with(|c: char| c.is_ascii_digit());
    Some((before, read(number)?, read(count)?, behind)).filter(|_| !is_longer && !goes_on)
}

/// Files whose names differ in their number alone.
struct Shards<'a> {
    numbers: BTreeSet<usize>,
    /// The first of them, and what stands behind its numbers.
    first: (&'a Path, &'a str),
}

/// Describes shards that are missing. `wants` tells whether a file of this name would be read, too.
pub(super) fn missing_shards(files: &[PathBuf], wants: impl Fn(&str) -> bool) -> Option<String> {
    let mut sets: BTreeMap<(&Path, &str, usize), Shards> = BTreeMap::new();
    for path in files {
        let Some((before, number, count, behind)) = path.file_name()?.to_str().and_then(shard) else {
            continue;
        };
        let key = (path.parent().unwrap_or(Path::new("")), before, count);
        let new = || Shards { numbers: BTreeSet::new(), first: (path.as_path(), behind) };
        sets.entry(key).or_insert_with(new).numbers.insert(number);
    }
    sets.iter().find_map(|((_, before, count), Shards { numbers, first: (path, behind) })| {
        // Some writers count from 1.
        let start = usize::from(!numbers.contains(&0) && numbers.contains(count));
        let name = |number: usize| format!("{before}{number:05}-of-{count:05}");
        let mut missing = (start..start + count)
            .filter(|number| !numbers.contains(number))
            .map(name)
            .filter(|name| wants(&format!("{name}{behind}")));
        let shown = missing.next()?;
        let more = match missing.count() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Some(format!(
            "{} is one of {count} files, and {shown}{more} is missing; fetch it, or list the files that are there if they are to \
             be read without it",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(|name| Path::new("d").join(name)).collect()
    }

    #[test]
    fn shards_that_are_missing_are_named() {
        let missing = |names: &[&str]| missing_shards(&paths(names), |_| true).unwrap_or_default();
        let found = missing(&["train-00000-of-00004.jsonl", "train-00002-of-00004.jsonl", "x.jsonl"]);
        assert!(found.contains("train-00000-of-00004.jsonl is one of 4 files"), "{found}");
        assert!(found.contains("train-00001-of-00004 (and 1 more) is missing"), "{found}");
        assert!(missing(&["a.00001-of-00003.json.gz"]).contains("a.00000-of-00003 (and 1 more)"));
        for whole in [
            &["t-00000-of-00002-0123abcd.parquet", "t-00001-of-00002-4567abcd.parquet"][..],
            &["t-00001-of-00002.csv", "t-00002-of-00002.csv"],
            &["best-of-4.jsonl", "fold-1-of-5.jsonl", "t-100000-of-200000.jsonl", "-of-.jsonl"],
        ] {
            assert_eq!(missing(whole), "", "{whole:?}");
        }
        let some = missing_shards(&paths(&["t-00000-of-00002.csv"]), |name| name != "t-00001-of-00002.csv");
        assert_eq!(some, None);
    }

    #[test]
    fn the_same_name_in_two_formats_is_named() {
        let found = twins(&paths(&["a.csv", "a.v2.csv", "b.jsonl.gz", "b.jsonl"])).unwrap();
        assert!(found.contains("b.jsonl.gz") && found.contains("b.jsonl "), "{found}");
        assert_eq!(twins(&paths(&["a.jsonl", "a.b.jsonl", "b.jsonl", "a (copy).jsonl"])), None);
    }
}
