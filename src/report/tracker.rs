//! What a tracker is: a program that collects the figures of runs.

use std::path::PathBuf;

use crate::error::Result;

/// What a tracker is told of a run before its first step.
#[derive(Debug, Clone, Default)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Its directory, which keeps what identifies it to the tracker.
    pub directory: PathBuf,
    /// Settings by their keys.
    pub settings: Vec<(String, String)>,
    /// Whether it goes on.
    pub resumed: bool,
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
