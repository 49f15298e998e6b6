//! `samples.jsonl`: the completions that a run made of its prompts, one JSON object per line.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::append::AppendFile;
use super::{Event, Sink, jsonl};
use crate::error::{Error, Result};

/// Writes every [`Event::Sample`] as a line.
pub struct SampleLog {
    file: AppendFile,
}

impl SampleLog {
    /// Continues after optimizer step `step`: later lines are removed, as they are of the log. At step 0 the file is emptied.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read or written.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let kept = match std::fs::read(path) {
            Ok(text) if step > 0 => jsonl::kept(&text, step),
            Ok(_) => 0,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(Error::read(path)(error)),
        };
        Ok(Self { file: AppendFile::open(path, kept as u64)? })
    }
}

impl Sink for SampleLog {
    fn name(&self) -> &str {
        "samples.jsonl"
    }

    fn record(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Sample { step, number, prompt, completion } => {
                let line =
                    json!({"step": step, "number": number, "prompt": prompt, "completion": completion});
                self.file.append(format!("{line}\n").as_bytes())
            }
            Event::Checkpoint | Event::End { .. } => self.file.sync(),
            _ => Ok(()),
        }
    }
}

/// A prompt and what a run made of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Progressed {
    /// The prompt.
    pub prompt: String,
    /// Steps and completions, sorted by step.
    pub completions: Vec<(u64, String)>,
}

impl Progressed {
    /// The first and the last completion, if there are two.
    pub fn before_and_after(&self) -> Option<(&str, &str)> {
        match &self.completions[..] {
            [(_, before), .., (_, after)] => Some((before, after)),
            _ => None,
        }
    }
}

/// The samples of a run, by the number of their prompt; none if there is no file. Of two lines for the same prompt and step
/// the last one counts: a finished run that is resumed samples again. Lines that cannot be read are left out: a crash may
/// have torn one.
pub fn samples(path: &Path) -> Vec<Progressed> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut found: BTreeMap<u64, (String, BTreeMap<u64, String>)> = BTreeMap::new();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let number = |key: &str| line.get(key).and_then(Value::as_u64);
        let text = |key: &str| line.get(key).and_then(Value::as_str).map(str::to_string);
        if let (Some(step), Some(number), Some(prompt), Some(completion)) =
            (number("step"), number("number"), text("prompt"), text("completion"))
        {
            let entry = found.entry(number).or_default();
            if entry.0 != prompt {
                // A resumed run may have other prompts.
                *entry = (prompt, BTreeMap::new());
            }
            entry.1.insert(step, completion);
        }
    }
    let all = found.into_values();
    all.map(|(prompt, completions)| Progressed { prompt, completions: completions.into_iter().collect() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_read_back_by_prompt_and_go_on_after_a_step() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("samples.jsonl");
        assert!(samples(&path).is_empty());
        let mut log = SampleLog::open(&path, 0).unwrap();
        let add = |log: &mut SampleLog, step, number, completion: &str| {
            let prompt = ["one", "two"][number];
            log.record(&Event::Sample { step, number, prompt, completion }).unwrap();
        };
        for (step, text) in [(0, "a"), (4, "b"), (8, "c")] {
            add(&mut log, step, 0, text);
            add(&mut log, step, 1, "same");
        }
        let mut log = SampleLog::open(&path, 4).unwrap();
        add(&mut log, 4, 0, "again");
        let found = samples(&path);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].completions, [(0, "a".to_string()), (4, "again".into())]);
        assert_eq!(found[0].before_and_after(), Some(("a", "again")));
        assert_eq!(found[1].prompt, "two");
        drop(SampleLog::open(&path, 0).unwrap());
        assert!(samples(&path).is_empty());
    }
}
