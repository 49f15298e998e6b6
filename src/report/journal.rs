//! `warnings.jsonl`: what a run warned of, one JSON object per line, for its report.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::append::AppendFile;
use super::{Event, Sink, jsonl};
use crate::error::{Error, Result};

/// Writes every [`Event::Warning`] with the step after which it came. There is no file as long as there is no warning.
pub struct Journal {
    path: PathBuf,
    file: Option<AppendFile>,
    step: u64,
}

impl Journal {
    /// Continues after optimizer step `step`: later lines are removed, as they are of the log. At step 0 a file is removed.
    ///
    /// # Errors
    /// If an existing file cannot be read or written.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let mut journal = Self { path: path.to_path_buf(), file: None, step };
        match std::fs::read(path) {
            Ok(_) if step == 0 => std::fs::remove_file(path).map_err(Error::write(path))?,
            Ok(text) => journal.file = Some(AppendFile::open(path, jsonl::kept(&text, step) as u64)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::read(path)(error)),
        }
        Ok(journal)
    }
}

impl Sink for Journal {
    fn name(&self) -> &str {
        "warnings.jsonl"
    }

    fn record(&mut self, event: &Event) -> Result<()> {
        match (*event, &mut self.file) {
            (Event::Start { step, .. } | Event::Progress { step, .. }, _) => self.step = step,
            (Event::Warning(text), file) => {
                let mut line = json!({"step": self.step, "warning": text}).to_string();
                line.push('\n');
                if file.is_none() {
                    *file = Some(AppendFile::open(&self.path, 0)?);
                }
                return file.as_mut().map_or(Ok(()), |file| file.append(line.as_bytes()));
            }
            (Event::Checkpoint | Event::End { .. }, Some(file)) => return file.sync(),
            _ => {}
        }
        Ok(())
    }
}

/// The warnings of a run; none if there is no file. Lines that cannot be read are left out: a crash may have torn one.
pub fn warnings(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let read = |line: &str| {
        let value: Value = serde_json::from_str(line).ok()?;
        let (step, warning) = (value.get("step")?.as_u64()?, value.get("warning")?.as_str()?);
        let named = warning.starts_with("step ") || step == 0;
        Some(if named { warning.to_string() } else { format!("after step {step}: {warning}") })
    };
    text.lines().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_kept_up_to_the_step_that_is_resumed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("warnings.jsonl");
        let mut journal = Journal::open(&path, 0).unwrap();
        assert!(!path.exists());
        for step in 1..=3 {
            let progress = Event::Progress { step, loss: 0.5, accuracy: None, tokens_per_second: 1.0 };
            journal.record(&progress).unwrap();
            journal.record(&Event::Warning("too high")).unwrap();
        }
        drop(journal);
        assert_eq!(warnings(&path).len(), 3);
        let mut journal = Journal::open(&path, 2).unwrap();
        journal.record(&Event::Warning("step 3: again")).unwrap();
        assert_eq!(warnings(&path), ["after step 1: too high", "after step 2: too high", "step 3: again"]);
        drop(Journal::open(&path, 0).unwrap());
        assert!(!path.exists());
    }
}
