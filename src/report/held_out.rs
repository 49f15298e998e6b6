//! `held_out.json`: what the last evaluation of a run says beyond its means: the pairs that are most wrong, and how often
//! pairs are right by the difference of their lengths.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Event, Sink};
use crate::error::{Error, Result};
use crate::files;

/// An evaluation, pair by pair where that tells something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Steps after which the policy is this one.
    pub step: u64,
    /// Number of held-out pairs.
    pub pairs: u64,
    /// Those that are right.
    pub right: u64,
    /// Whether a pair is right if the chosen reward is greater; before the first step rewards are 0, and log-probs are compared.
    pub by_reward: bool,
    /// The pairs with the least margins, the least first; only pairs that are wrong.
    pub wrong: Vec<WrongPair>,
    /// By the difference of lengths, from the shortest chosen answers to the longest ones.
    pub lengths: Vec<LengthGroup>,
}

/// A pair whose rejected answer is preferred.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WrongPair {
    /// Its record, as `file:line`.
    pub origin: String,
    /// The prompt.
    pub prompt: String,
    /// The chosen answer.
    pub chosen: String,
    /// The rejected answer.
    pub rejected: String,
    /// Reward of the chosen minus that of the rejected answer, if the loss has rewards.
    pub reward_margin: Option<f64>,
    /// The same difference of log-probs, in nats; none of a reward model.
    pub logp_margin: Option<f64>,
    /// Tokens of the chosen answer.
    pub chosen_tokens: usize,
    /// Tokens of the rejected answer.
    pub rejected_tokens: usize,
}

/// Pairs whose chosen answer is longer than the rejected one by `low` to `high` tokens; shorter, if these are negative.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthGroup {
    /// The least difference, in tokens.
    pub low: i64,
    /// The greatest difference.
    pub high: i64,
    /// Number of pairs.
    pub pairs: u64,
    /// Those that are right.
    pub right: u64,
}

/// Writes the last [`Event::HeldOut`].
pub struct HeldOutFile {
    path: PathBuf,
}

impl HeldOutFile {
    /// Writes to `path`. The file of an earlier run is removed unless `step`, the steps done, is greater than 0.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be removed.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        if step == 0
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(Error::write(path)(error));
        }
        Ok(Self { path: path.to_path_buf() })
    }
}

impl Sink for HeldOutFile {
    fn name(&self) -> &str {
        "held_out.json"
    }

    fn record(&mut self, event: &Event) -> Result<()> {
        let Event::HeldOut(found) = event else { return Ok(()) };
        let text =
            serde_json::to_vec(found).map_err(|e| Error::Data(format!("{}: {e}", self.path.display())))?;
        files::write_bytes(&self.path, &text)
    }
}

/// What `held_out.json` of a run says; `None` if there is none that can be read.
pub fn held_out(path: &Path) -> Option<HeldOut> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_evaluation_reads_back() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("held_out.json");
        assert_eq!(held_out(&path), None);
        let mut sink = HeldOutFile::open(&path, 0).unwrap();
        let lengths = vec![LengthGroup { low: -3, high: 0, pairs: 2, right: 1 }];
        let mut found = HeldOut { pairs: 2, right: 1, lengths, ..HeldOut::default() };
        for step in [0, 8] {
            found.step = step;
            sink.record(&Event::HeldOut(&found)).unwrap();
            sink.record(&Event::Note("ignored")).unwrap();
        }
        assert_eq!(held_out(&path), Some(found));
        drop(HeldOutFile::open(&path, 8).unwrap());
        assert!(path.exists());
        drop(HeldOutFile::open(&path, 0).unwrap());
        assert!(!path.exists());
    }
}
