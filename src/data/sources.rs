//! The data sources in the YAML: files, globs, directories, or a fraction to hold out.

use std::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Files, globs or directories: one string in the YAML, or a list of strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources(pub Vec<String>);

impl<T: Into<String>> From<T> for Sources {
    fn from(source: T) -> Self {
        Self(vec![source.into()])
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl Serialize for Sources {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
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
        while let Some(source) = seq.next_element()? {
            sources.push(source);
        }
        Ok(EvalSource::Sources(Sources(sources)))
    }
}
