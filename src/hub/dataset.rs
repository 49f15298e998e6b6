//! Which files of a data set's repository belong to a configuration and a split of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::card::{CardConfig, matches};
use super::formats;
use super::id::HubId;
use super::path::{Listing, RepoPath};
use super::split::split_of;
use crate::error::{Error, Result};

/// The split if none is named.
const DEFAULT_SPLIT: &str = "train";
/// JSON files that describe data (`datasets.data_files.FILES_TO_IGNORE`).
const IGNORED: [&str; 4] = ["config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"];
/// A part of a data set: `owner/name[/config][@revision][:split]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetRef {
    /// The repository and its revision.
    pub id: HubId,
    /// A configuration that the data set's card declares, or a directory of the data set.
    pub config: Option<String>,
    /// `train` if none is named.
    pub split: Option<String>,
}

impl DatasetRef {
    /// Reads `owner/name[/config][@revision][:split]`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the invalid part.
    pub fn parse(text: &str) -> Result<Self> {
        let (rest, split) = match text.split_once(':') {
            Some((rest, split)) => (rest, Some(split)),
            None => (text, None),
        };
        let (name, revision) = match rest.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (rest, None),
        };
        let (repository, config) = match name.match_indices('/').nth(1) {
            Some((at, _)) => (&name[..at], Some(&name[at + 1..])),
            None => (name, None),
        };
        let word = |part: Option<&str>, what: &str| match part {
            Some(part)
                if part.is_empty() || !part.chars().all(|c| c.is_alphanumeric() || "-_.+".contains(c)) =>
            {
                Err(Error::Config(format!(
                    "`{text}`: `{part}` cannot be a {what}; write owner/name[/config][@revision][:split]; slices of \
                     a split are not supported"
                )))
            }
            Some(part) if part.starts_with('.') => {
                Err(Error::Config(format!("`{text}`: a {what} must not start with `.`, as `{part}` does")))
            }
            part => Ok(part.map(str::to_owned)),
        };
        let id = HubId::parse(&revision.map_or(repository.to_owned(), |r| format!("{repository}@{r}")))?;
        Ok(Self { id, config: word(config, "configuration")?, split: word(split, "split")? })
    }

    fn split(&self) -> &str {
        self.split.as_deref().unwrap_or(DEFAULT_SPLIT)
    }
}

impl fmt::Display for DatasetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id.repository())?;
        if let Some(config) = &self.config {
            write!(f, "/{config}")?;
        }
        if self.id.revision() != "main" {
            write!(f, "@{}", self.id.revision())?;
        }
        self.split.as_ref().map_or(Ok(()), |split| write!(f, ":{split}"))
    }
}

/// The files of `wanted`, in the order of their names, and a note about data files that are left out.
///
/// # Errors
/// [`Error::Hub`] or [`Error::Config`] listing the configurations, splits or formats that exist.
pub(super) fn select(
    wanted: &DatasetRef,
    listing: &Listing,
    card: &[CardConfig],
) -> Result<(Vec<RepoPath>, Option<String>)> {
    let data: BTreeSet<&str> = listing.iter().map(String::as_str).filter(|name| is_data(name)).collect();
    let names = if card.is_empty() {
        by_name(wanted, &configured(wanted, &data)?)?
    } else {
        let config = card_config(wanted, card)?;
        let splits = config.splits();
        if splits.is_empty() {
            let prefix = config.prefix();
            by_name(wanted, &data.into_iter().filter(|name| name.starts_with(&prefix)).collect())?
        } else {
            by_card(wanted, &splits, listing)?
        }
    };
    let (readable, note) = formats::choose(wanted, names)?;
    Ok((readable.into_iter().map(checked).collect::<Result<_>>()?, note))
}

fn checked(name: &str) -> Result<RepoPath> {
    RepoPath::parse(name).map_err(|why| {
        Error::Hub(format!(
            "the Hub names a file `{}`, which {why}; it is not fetched",
            name.escape_default()
        ))
    })
}

fn is_data(name: &str) -> bool {
    let hidden = name
        .split('/')
        .any(|part| part.starts_with("__") || (part.starts_with('.') && !part.starts_with("..")));
    let file = name.rsplit('/').next().unwrap_or(name);
    formats::is_known(name) && !hidden && !IGNORED.contains(&file) && file != "requirements.txt"
}

/// Without a card, a configuration is a directory.
fn configured<'a>(wanted: &DatasetRef, data: &BTreeSet<&'a str>) -> Result<BTreeSet<&'a str>> {
    let Some(config) = &wanted.config else { return Ok(data.clone()) };
    let directories =
        |name: &'a str| name.rsplit_once('/').map_or("", |(directories, _)| directories).split('/');
    let chosen: BTreeSet<&str> =
        data.iter().copied().filter(|name| directories(name).any(|part| part == config)).collect();
    if chosen.is_empty() {
        let known: BTreeSet<&str> =
            data.iter().flat_map(|name| directories(name)).filter(|d| !d.is_empty()).collect();
        return Err(Error::Config(format!(
            "{wanted}: there is no configuration `{config}`; {}",
            one_of("its directories of data", known)
        )));
    }
    Ok(chosen)
}

fn one_of<'a>(what: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    if names.is_empty() {
        format!("there are no {what}")
    } else {
        format!("{what} are: {}", names.join(", "))
    }
}

fn card_config<'a>(wanted: &DatasetRef, card: &'a [CardConfig]) -> Result<&'a CardConfig> {
    let found = match (&wanted.config, card) {
        (Some(config), _) => card.iter().find(|c| c.name == *config),
        (None, [only]) => Some(only),
        (None, _) => card.iter().find(|c| c.default).or_else(|| card.iter().find(|c| c.name == "default")),
    };
    found.ok_or_else(|| {
        let known = one_of("its configurations", card.iter().map(|c| c.name.as_str()));
        Error::Config(match &wanted.config {
            Some(config) => format!("{wanted}: there is no configuration `{config}`; {known}"),
            None => format!("{wanted} has several configurations; write owner/name/config; {known}"),
        })
    })
}

fn no_split<'a>(wanted: &DatasetRef, known: impl IntoIterator<Item = &'a str>) -> Error {
    Error::Config(format!(
        "{wanted}: there is no split `{}`; {}",
        wanted.split(),
        one_of("its splits", known)
    ))
}

fn by_card<'a>(
    wanted: &DatasetRef,
    splits: &[(&str, Vec<String>)],
    listing: &'a Listing,
) -> Result<BTreeSet<&'a str>> {
    let patterns: Vec<&String> = splits
        .iter()
        .filter(|(split, _)| *split == wanted.split())
        .flat_map(|(_, patterns)| patterns)
        .collect();
    if patterns.is_empty() {
        return Err(no_split(wanted, splits.iter().map(|(split, _)| *split)));
    }
    let files: BTreeSet<&str> =
        listing.iter().map(String::as_str).filter(|name| patterns.iter().any(|p| matches(p, name))).collect();
    if files.is_empty() {
        let shown: Vec<&str> = patterns.iter().map(|pattern| pattern.as_str()).collect();
        return Err(Error::Hub(format!(
            "{wanted}: no file is at {}, where its card puts it",
            shown.join(", ")
        )));
    }
    Ok(files)
}

/// A file's name decides its split, else the nearest directory does; if no file has one, all are `train`.
fn by_name<'a>(wanted: &DatasetRef, data: &BTreeSet<&'a str>) -> Result<BTreeSet<&'a str>> {
    let mut splits: BTreeMap<String, BTreeSet<&'a str>> = BTreeMap::new();
    for name in data {
        if let Some(split) = split_of(name) {
            splits.entry(split).or_default().insert(name);
        }
    }
    if splits.is_empty() {
        splits.insert(DEFAULT_SPLIT.into(), data.clone());
    }
    splits.remove(wanted.split()).ok_or_else(|| no_split(wanted, splits.keys().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::super::card::configs;
    use super::*;

    fn chosen(wanted: &str, names: &[&str], card: &str) -> Result<Vec<String>> {
        let listing = names.iter().map(|name| (*name).to_owned()).collect();
        let (files, _) = select(&DatasetRef::parse(wanted).unwrap(), &listing, &configs(card).unwrap())?;
        Ok(files.iter().map(ToString::to_string).collect())
    }

    fn refused(wanted: &str, names: &[&str], card: &str) -> String {
        chosen(wanted, names, card).unwrap_err().to_string()
    }

    #[test]
    fn references_read_back_as_written() {
        for text in ["o/n", "o/n:test", "o/n/c", "o/n/c@v1:dev", "o/n@refs/pr/1:train"] {
            assert_eq!(DatasetRef::parse(text).unwrap().to_string(), text);
        }
        let part = DatasetRef::parse("o/n/c@refs/pr/1:test").unwrap();
        assert_eq!(
            (part.id.revision(), part.config.as_deref(), part.split.as_deref()),
            ("refs/pr/1", Some("c"), Some("test"))
        );
        for text in [
            "o",
            "o/n/",
            "o/n/../x",
            "o/n/..",
            "o/n/c/d",
            "o/n:",
            "o/n:train[:10]",
            "o/n:a:b",
            "o/n@:x",
            "/o/n",
        ] {
            assert_eq!(DatasetRef::parse(text).unwrap_err().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn without_a_card_names_decide() {
        let names = [
            "README.md",
            "dataset_infos.json",
            ".x/a.jsonl",
            "a/train.jsonl",
            "b/test.jsonl",
            "b/train.jsonl",
        ];
        assert_eq!(chosen("o/n", &names, "").unwrap(), ["a/train.jsonl", "b/train.jsonl"]);
        assert_eq!(chosen("o/n/b:test", &names, "").unwrap(), ["b/test.jsonl"]);
        assert!(refused("o/n:validation", &names, "").contains("its splits are: test, train"));
        assert!(refused("o/n/c", &names, "").contains("are: a, b"));
        assert_eq!(chosen("o/n", &["pairs.jsonl", "x.json"], "").unwrap(), ["pairs.jsonl", "x.json"]);
        let shards =
            ["data/dev-00000-of-00002.jsonl.gz", "data/dev-00001-of-00002.jsonl", "data/train.csv.zst"];
        assert_eq!(chosen("o/n:validation", &shards, "").unwrap(), shards[..2]);
        assert_eq!(chosen("o/n", &shards, "").unwrap(), shards[2..]);
    }

    #[test]
    fn a_card_decides_where_there_is_one() {
        let card = "---\nconfigs:\n- config_name: a\n  data_files:\n  - split: train\n    path: a/*.jsonl\n- config_name: b\n  data_dir: b\n---\n";
        let names = ["a/x.jsonl", "b/train.jsonl", "b/test.jsonl", "c.jsonl"];
        assert_eq!(chosen("o/n/a", &names, card).unwrap(), ["a/x.jsonl"]);
        assert_eq!(chosen("o/n/b:test", &names, card).unwrap(), ["b/test.jsonl"]);
        assert!(refused("o/n", &names, card).contains("its configurations are: a, b"));
        assert!(refused("o/n/c", &names, card).contains("its configurations are: a, b"));
        assert!(refused("o/n/a:test", &names, card).contains("its splits are: train"));
        assert!(refused("o/n/a", &["c.jsonl"], card).contains("a/*.jsonl"));
    }

    /// As `push_to_hub` writes it, and as the Hub converts data sets (revision refs/convert/parquet).
    #[test]
    fn parquet_shards_have_splits_and_configurations() {
        let card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train_prefs\n    path: data/train_prefs-*\n  - split: test_prefs\n    path: data/test_prefs-*\n---\n";
        let names = [
            "README.md",
            "data/test_prefs-00000-of-00001.parquet",
            "data/train_prefs-00000-of-00002-0123456789abcdef.parquet",
            "data/train_prefs-00001-of-00002-0123456789abcdef.parquet",
        ];
        assert_eq!(chosen("o/n:train_prefs", &names, card).unwrap(), names[2..]);
        assert_eq!(chosen("o/n:test_prefs", &names, card).unwrap(), names[1..2]);
        assert!(refused("o/n", &names, card).contains("its splits are: train_prefs, test_prefs"));
        let names = ["default/test/0000.parquet", "default/train/0000.parquet", "small/train/0000.parquet"];
        assert_eq!(chosen("o/n/default@refs/convert/parquet", &names, "").unwrap(), names[1..2]);
        assert_eq!(chosen("o/n/small@refs/convert/parquet:train", &names, "").unwrap(), names[2..]);
    }

    #[test]
    fn one_format_of_a_split_is_read() {
        let listing = Listing::from(["train.jsonl".into(), "train.parquet".into()]);
        let (files, note) = select(&DatasetRef::parse("o/n").unwrap(), &listing, &[]).unwrap();
        assert_eq!((files[0].as_str(), files.len()), ("train.parquet", 1));
        assert!(note.is_some_and(|note| note.contains("jsonl")));
    }

    #[test]
    fn a_name_that_leaves_the_repository_is_refused() {
        for name in ["../train.jsonl", "/train.jsonl", "a/../../train.jsonl", "..\\train.jsonl"] {
            assert!(refused("o/n", &[name], "").contains("it is not fetched"), "{name}");
        }
        let card = "---\nconfigs:\n- data_files: ../../x.jsonl\n---\n";
        assert!(refused("o/n", &["../../x.jsonl"], card).contains("it is not fetched"));
    }
}
