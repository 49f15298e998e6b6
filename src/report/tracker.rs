//! What a tracker is: a program that collects the figures of runs.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{jsonl, log};
use crate::error::Result;
use crate::files;

/// What a tracker is told of a run before its first step.
#[derive(Debug, Clone, Default)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Its directory, which keeps what identifies it to the tracker.
    pub directory: PathBuf,
    /// Settings by their keys.
    pub settings: Vec<(String, String)>,
    /// The step after which it goes on; nothing for a new run.
    pub resumed: Option<u64>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Finished,
    Failed,
    /// By a signal.
    Killed,
}

/// A tracker.
pub(super) trait Tracker: Send {
    /// Begins the run, or goes on with it. `time` is in milliseconds since 1970, here and below.
    fn begin(&mut self, run: &Described, time: u64) -> Result<()>;

    /// Adds the figures of a step; all of them are finite.
    fn log(&mut self, step: u64, values: &[(String, f64)], time: u64) -> Result<()>;

    /// Ends the run.
    fn end(&mut self, how: Ended, time: u64) -> Result<()>;
}

/// Figures of an earlier process.
pub(super) struct Recorded {
    pub step: u64,
    pub values: Vec<(String, f64)>,
    /// When they were logged, in milliseconds since 1970.
    pub time: u64,
}

impl Described {
    /// The figures that the run's log keeps of earlier processes. A line without a time, which older versions wrote, has the
    /// time `now`.
    pub(super) fn recorded(&self, now: u64) -> Result<Vec<Recorded>> {
        let Some(before) = self.resumed else { return Ok(Vec::new()) };
        let lines = log::read(&self.directory.join("metrics.jsonl"))?;
        // This process adds lines meanwhile, and logs them itself.
        let recorded = lines.into_iter().filter(|line| line.step <= before).map(|line| {
            let own = [log::STEP, jsonl::EPOCH, jsonl::TIME];
            let names = line.values.keys().filter(|name| !own.contains(&name.as_str()));
            let values = names.filter_map(|name| Some((name.clone(), line.value(name)?))).collect();
            let time = line.value(jsonl::TIME).map_or(now, |seconds| (1000.0 * seconds).round() as u64);
            Recorded { step: line.step, values, time }
        });
        Ok(recorded.collect())
    }

    /// What identifies the run to a tracker: what the file `remembered` of its directory says if it goes on, else eight new
    /// characters.
    pub(super) fn identifier(&self, remembered: &str, time: u64) -> Result<String> {
        let path = self.directory.join(remembered);
        let text = fs::read_to_string(&path).ok().filter(|_| self.resumed.is_some());
        let found = text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let is_plain = |id: &str| id.len() == 8 && id.bytes().all(|b| b.is_ascii_alphanumeric());
        if let Some(id) = found.as_ref().and_then(|found| found["run_id"].as_str()).filter(|id| is_plain(id))
        {
            return Ok(id.to_string());
        }
        let place = fs::canonicalize(&self.directory).unwrap_or_else(|_| self.directory.clone());
        let id = blake3::hash(format!("{time} {}", place.display()).as_bytes()).to_hex()[..8].to_string();
        files::write_bytes(&path, json!({"run_id": id}).to_string().as_bytes())?;
        Ok(id)
    }
}

/// A setting: a number, a truth value or nothing, if its text is one.
pub(super) fn typed(text: &str) -> Value {
    let read = serde_yaml::from_str::<Value>(text).ok();
    read.filter(|value| value.is_number() || value.is_boolean() || value.is_null())
        .unwrap_or_else(|| text.into())
}
