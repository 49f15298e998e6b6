//! The data sources in the YAML: files, globs, directories, or a fraction to hold out.

use std::fmt;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::columns::Columns;

/// One source and how its rows are read. Without settings of its own it is a string in the YAML.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSource {
    path: String,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    weight: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    split: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<String>,
    #[serde(default, skip_serializing_if = "Columns::is_empty")]
    columns: Columns,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
}

fn one() -> f64 {
    1.0
}

/// The largest weight of a source.
const HEAVIEST: f64 = 1000.0;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(weight: &f64) -> bool {
    *weight == 1.0
}

impl DataSource {
    /// Creates a source without settings of its own.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            weight: 1.0,
            split: None,
            format: None,
            columns: Columns::default(),
            filter: None,
        }
    }

    /// Returns the file, glob, directory or data set of the Hub, with the split behind it if there is one.
    pub fn path(&self) -> String {
        match &self.split {
            Some(split) => format!("{}:{split}", self.path),
            None => self.path.clone(),
        }
    }

    /// Returns how often each record counts: 1 by default.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// Returns the name of the schema of its rows; it precedes `data.format`.
    pub fn format(&self) -> Option<&str> {
        self.format.as_deref()
    }

    /// Returns the new names of its columns; they replace `data.columns`, if there are any.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Returns the condition for its rows; it precedes `data.filter`.
    pub fn filter(&self) -> Option<&str> {
        self.filter.as_deref()
    }

    /// Returns the same settings for another path, such as a file that the source was resolved to.
    pub fn at(&self, path: impl Into<String>) -> Self {
        Self { path: path.into(), split: None, ..self.clone() }
    }

    fn is_plain(&self) -> bool {
        *self == Self::new(self.path.as_str())
    }

    /// Returns what is wrong with path, weight and split. `place` names the source.
    pub(super) fn problems(&self, place: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.path.trim().is_empty() {
            wrong.push(format!("{place}.path is empty; name a file, glob or directory"));
        }
        if !(self.weight > 0.0 && self.weight <= HEAVIEST) {
            wrong.push(format!(
                "{place}.weight is {}; a weight is above 0 (leave the source out for 0) and at most {HEAVIEST}: it is how often \
                 each record counts",
                self.weight
            ));
        }
        if let Some(split) = &self.split {
            match self.path.strip_prefix("hub:") {
                None => wrong.push(format!(
                    "{place}.split is {split}, but {} is no data set of the Hub; name the file of the split",
                    self.path
                )),
                Some(name) if name.contains(':') => {
                    wrong.push(format!(
                        "{place}.split is {split}, and {} names a split too; keep one of them",
                        self.path
                    ));
                }
                Some(_) => {}
            }
        }
        wrong
    }
}

impl<T: Into<String>> From<T> for DataSource {
    fn from(path: T) -> Self {
        Self::new(path)
    }
}

/// One entry of a list: a string, or a mapping with the settings of the source.
struct Entry(DataSource);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor).map(Self)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = DataSource;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(
            "a file, glob or directory, or a mapping with path, weight, split, format, columns and filter",
        )
    }

    fn visit_str<E: de::Error>(self, path: &str) -> Result<DataSource, E> {
        Ok(DataSource::new(path))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<DataSource, A::Error> {
        DataSource::deserialize(de::value::MapAccessDeserializer::new(map))
    }
}

/// Sources: one string in the YAML, or a list of strings and mappings.
#[derive(Clone, Debug, PartialEq)]
pub struct Sources(pub Vec<DataSource>);

impl Sources {
    /// Returns the paths in order.
    pub fn paths(&self) -> Vec<String> {
        self.0.iter().map(DataSource::path).collect()
    }
}

impl<T: Into<String>> From<T> for Sources {
    fn from(source: T) -> Self {
        Self(vec![DataSource::new(source)])
    }
}

impl<T: Into<DataSource>> FromIterator<T> for Sources {
    fn from_iter<I: IntoIterator<Item = T>>(sources: I) -> Self {
        Self(sources.into_iter().map(Into::into).collect())
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.paths().join(", "))
    }
}

/// A source as it stands in the YAML.
#[derive(Serialize)]
#[serde(untagged)]
enum Written<'a> {
    Path(&'a str),
    Settings(&'a DataSource),
}

impl Serialize for Sources {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [only] if only.is_plain() => only.path.serialize(serializer),
            many => serializer.collect_seq(many.iter().map(|source| {
                if source.is_plain() { Written::Path(&source.path) } else { Written::Settings(source) }
            })),
        }
    }
}

impl<'de> Deserialize<'de> for Sources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match EvalSource::deserialize(deserializer)? {
            EvalSource::Sources(sources) => Ok(sources),
            EvalSource::Fraction(f) => Err(de::Error::custom(format!(
                "invalid type: number `{f}`, expected a file, glob or directory, or a list of them"
            ))),
        }
    }
}

/// The data to evaluate on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum EvalSource {
    /// Separate sources.
    Sources(Sources),
    /// A fraction of the training data to hold out, between 0 and 1.
    Fraction(f64),
}

impl<'de> Deserialize<'de> for EvalSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

/// Implemented by hand because serde's untagged enums only report "did not match any variant" instead of what was
/// expected.
struct SourceVisitor;

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = EvalSource;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a file, glob or directory, a list of them, or (for eval) a fraction between 0 and 1")
    }

    fn visit_str<E: de::Error>(self, source: &str) -> Result<EvalSource, E> {
        Ok(EvalSource::Sources(source.into()))
    }

    fn visit_f64<E: de::Error>(self, fraction: f64) -> Result<EvalSource, E> {
        Ok(EvalSource::Fraction(fraction))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<EvalSource, E> {
        Ok(EvalSource::Fraction(number as f64))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<EvalSource, E> {
        Ok(EvalSource::Fraction(number as f64))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<EvalSource, A::Error> {
        let mut sources = Vec::new();
        while let Some(Entry(source)) = seq.next_element()? {
            sources.push(source);
        }
        Ok(EvalSource::Sources(Sources(sources)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<Sources, serde_yaml::Error> {
        serde_yaml::from_str(yaml)
    }

    #[test]
    fn strings_are_written_as_they_were() {
        for yaml in ["a.jsonl\n", "- a.jsonl\n- b/*.jsonl\n"] {
            assert_eq!(serde_yaml::to_string(&parse(yaml).unwrap()).unwrap(), yaml);
        }
        assert_eq!(parse("[a]").unwrap(), Sources::from("a"));
    }

    #[test]
    fn mappings_carry_settings() {
        let yaml = "- a.jsonl\n- path: hub:o/n\n  weight: 2.5\n  split: test\n  format: hh-rlhf\n  columns:\n    prompt: q\n    x: null\n  filter: a > 1\n";
        let sources = parse(yaml).unwrap();
        assert_eq!(serde_yaml::to_string(&sources).unwrap(), yaml);
        let source = &sources.0[1];
        assert_eq!(
            (source.path().as_str(), source.weight(), source.format()),
            ("hub:o/n:test", 2.5, Some("hh-rlhf"))
        );
        assert_eq!((source.columns().0.len(), source.filter()), (2, Some("a > 1")));
        assert_eq!(sources.to_string(), "a.jsonl, hub:o/n:test");
        let moved = source.at("cache/x.jsonl");
        assert_eq!(
            (moved.path().as_str(), moved.weight(), moved.filter()),
            ("cache/x.jsonl", 2.5, Some("a > 1"))
        );
        let one = parse("[{path: a, weight: 2}]").unwrap();
        assert_eq!(parse(&serde_yaml::to_string(&one).unwrap()).unwrap(), one);
    }

    #[test]
    fn what_is_no_source_says_what_is_expected() {
        for (yaml, part) in [
            ("[3]", "expected a file, glob or directory, or a mapping with path, weight"),
            ("[{weight: 2}]", "missing field `path`"),
            ("[{path: a, wieght: 2}]", "unknown field `wieght`, expected one of `path`, `weight`"),
            ("[{path: a, weight: heavy}]", "expected f64"),
            ("3", "expected a file, glob or directory, or a list"),
        ] {
            let error = parse(yaml).unwrap_err().to_string();
            assert!(error.contains(part), "{yaml}: {error}");
        }
    }

    #[test]
    fn values_of_settings_are_checked() {
        for (yaml, part) in [
            ("[{path: '', weight: 1}]", "s.path is empty"),
            ("[{path: a, weight: 0}]", "s.weight is 0; a weight is above 0"),
            ("[{path: a, weight: -1}]", "s.weight is -1"),
            ("[{path: a, weight: 1e300}]", "at most 1000"),
            ("[{path: a, weight: .nan}]", "s.weight is NaN"),
            ("[{path: a.jsonl, split: test}]", "s.split is test, but a.jsonl is no data set of the Hub"),
            ("[{path: 'hub:o/n:train', split: test}]", "names a split too"),
        ] {
            let problems = parse(yaml).unwrap().0[0].problems("s").join("\n");
            assert!(problems.contains(part), "{yaml}: {problems}");
        }
        assert!(
            parse("[{path: 'hub:o/n', split: test, weight: 0.5}]").unwrap().0[0].problems("s").is_empty()
        );
    }
}
