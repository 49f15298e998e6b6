//! Results that are computed once: each is on the disk before work goes on.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Ledger;
use crate::error::Result;

/// A result: a line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<T> {
    /// The hash of all that the result depends on.
    key: String,
    result: T,
}

/// A file of results by key.
#[derive(Debug)]
pub struct Memo<T> {
    ledger: Ledger<Line<T>>,
    known: BTreeMap<String, T>,
}

impl<T: Clone + Serialize + DeserializeOwned> Memo<T> {
    /// Opens or creates a file of results.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open(path: &Path) -> Result<Self> {
        let (ledger, lines) = Ledger::<Line<T>>::open(path)?;
        Ok(Self { ledger, known: lines.into_iter().map(|line| (line.key, line.result)).collect() })
    }

    /// Whether the result of `described` is known.
    pub fn knows(&self, described: &str) -> bool {
        self.known.contains_key(&key(described))
    }

    /// Returns the result of `described`, all that it depends on as text; if it is not known, `compute` gives it.
    ///
    /// # Errors
    /// Those of `compute`, or if the file cannot be written.
    pub fn of(&mut self, described: &str, compute: impl FnOnce() -> Result<T>) -> Result<T> {
        let key = key(described);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let line = Line { key, result: compute()? };
        self.ledger.push(&line)?;
        self.known.insert(line.key, line.result.clone());
        Ok(line.result)
    }
}

fn key(described: &str) -> String {
    blake3::hash(described.as_bytes()).to_hex()[..32].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_result_is_computed_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memo.jsonl");
        let mut memo = Memo::<Vec<f64>>::open(&path).unwrap();
        assert_eq!(memo.of("a", || Ok(vec![0.1, 1e300])).unwrap(), [0.1, 1e300]);
        assert!(memo.of("b", || Err(Error::Data("no".into()))).is_err());
        drop(memo);
        let mut memo = Memo::<Vec<f64>>::open(&path).unwrap();
        assert!(memo.knows("a") && !memo.knows("b"));
        assert_eq!(memo.of("a", || panic!("it is known")).unwrap(), [0.1, 1e300]);
        assert_eq!(memo.of("b", || Ok(vec![])).unwrap(), [0.0; 0]);
    }
}
