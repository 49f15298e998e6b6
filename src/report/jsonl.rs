//! `metrics.jsonl`: one JSON object per line, `step` and `epoch` first, the time last.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::append::AppendFile;
use super::{Event, Sink, log};
use crate::error::{Error, Result};

/// The name under which a line has the time at which it was written, in seconds since 1970. Trackers need it of steps that
/// an earlier process logged.
pub(super) const TIME: &str = "time";

/// The name of the epochs.
pub(super) const EPOCH: &str = "epoch";

/// Writes every [`Event::Metrics`] as a line, in one unbuffered write. Numbers that are not finite become `null`, since
/// JSON has none.
pub struct Jsonl {
    file: AppendFile,
    /// Seconds since 1970.
    clock: fn() -> f64,
}

/// The time to a millisecond.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_millis() as f64 / 1000.0)
}

impl Jsonl {
    /// A new file; an existing one is emptied.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { file: AppendFile::open(path.as_ref(), 0)?, clock: now })
    }

    /// Continues the file of a run that resumes after optimizer step `step`: keeps the lines up to that step, and removes
    /// later ones (those steps are repeated) and a last line that a crash left incomplete. A missing file is created.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read or written.
    pub fn resume(path: impl AsRef<Path>, step: u64) -> Result<Self> {
        let path = path.as_ref();
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::read(path)(error)),
        };
        Ok(Self { file: AppendFile::open(path, kept(&text, step) as u64)?, clock: now })
    }
}

/// The length of the leading complete lines whose `step` is at most `step`.
pub(super) fn kept(text: &[u8], step: u64) -> usize {
    text.split_inclusive(|byte| *byte == b'\n')
        .take_while(|line| line.ends_with(b"\n") && step_of(line).is_some_and(|at| at <= step))
        .map(<[u8]>::len)
        .sum()
}

fn step_of(line: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(line).ok()?.get(log::STEP)?.as_u64()
}

impl Sink for Jsonl {
    fn name(&self) -> &str {
        "metrics.jsonl"
    }

    fn record(&mut self, event: &Event) -> Result<()> {
        if matches!(event, Event::Checkpoint | Event::End { .. }) {
            return self.file.sync();
        }
        let Event::Metrics { step, epoch, values } = event else { return Ok(()) };
        let mut line = Map::new();
        line.insert(log::STEP.into(), Value::from(*step));
        line.insert(EPOCH.into(), Value::from(*epoch));
        line.extend(values.iter().map(|(name, value)| ((*name).into(), Value::from(*value))));
        line.insert(TIME.into(), Value::from((self.clock)()));
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        self.file.append(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sink: &mut Jsonl, step: u64) {
        let values = [("loss", 0.5 + step as f64), ("rewards/chosen", f64::NAN)];
        sink.clock = || 1234.5;
        sink.record(&Event::Metrics { step, epoch: 0.25, values: &values }).unwrap();
    }

    #[test]
    fn lines_are_objects_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut sink = Jsonl::create(&path).unwrap();
        sink.record(&Event::Note("not a metric")).unwrap();
        record(&mut sink, 1);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"step\":1,\"epoch\":0.25,\"loss\":1.5,\"rewards/chosen\":null,\"time\":1234.5}\n"
        );
    }

    #[test]
    fn resuming_gives_the_file_of_a_run_that_never_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, torn) = (dir.path().join("whole"), dir.path().join("torn"));
        let mut sink = Jsonl::create(&whole).unwrap();
        (1..=6).for_each(|step| record(&mut sink, step));

        let mut sink = Jsonl::create(&torn).unwrap();
        (1..=5).for_each(|step| record(&mut sink, step));
        let text = std::fs::read(&torn).unwrap();
        std::fs::write(&torn, &text[..text.len() - 7]).unwrap();
        let mut sink = Jsonl::resume(&torn, 3).unwrap();
        (4..=6).for_each(|step| record(&mut sink, step));
        assert_eq!(std::fs::read(&whole).unwrap(), std::fs::read(&torn).unwrap());
    }

    #[test]
    fn the_time_is_that_of_the_clock() {
        let since = |then: f64| now() - then;
        assert!(now() > 1.7e9 && (0.0..60.0).contains(&since(now())));
    }

    #[test]
    fn what_no_run_wrote_is_cut() {
        assert_eq!(kept(b"{\"step\":1}\n{\"step\":2}", 9), 11);
        assert_eq!(kept(b"{\"step\":1}\n\0\0\0\0\n{\"step\":2}\n", 9), 11);
        assert_eq!(kept(b"", 9), 0);
        let dir = tempfile::tempdir().unwrap();
        record(&mut Jsonl::resume(dir.path().join("new"), 4).unwrap(), 5);
    }
}
