//! Reads `metrics.jsonl`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The name under which a line has its step.
pub(super) const STEP: &str = "step";

/// A line of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Steps done.
    pub step: u64,
    /// Every value, by name.
    pub values: Map<String, Value>,
}

impl Line {
    /// A value; `None` if this line does not have it, or it was not finite.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.values.get(name)?.as_f64()
    }
}

/// Reads the lines of a log. A last line that a crash left incomplete is left out.
///
/// # Errors
/// If the file cannot be read, or a line in its middle is damaged; the message names the line.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let file = File::open(path).map_err(Error::read(path))?;
    let mut lines = Vec::new();
    for (i, text) in BufReader::new(file).split(b'\n').enumerate() {
        let text = text.map_err(Error::read(path))?;
        let parsed = serde_json::from_slice::<Map<String, Value>>(&text);
        let step = parsed.as_ref().ok().and_then(|values| values.get(STEP)?.as_u64());
        match (parsed, step) {
            (Ok(values), Some(step)) => lines.push((i, Ok(Line { step, values }))),
            (parsed, _) => {
                let message = parsed.err().map_or_else(|| "`step` is missing".into(), |e| e.to_string());
                let file = path.display().to_string();
                lines.push((i, Err(Error::Record { file, line: i + 1, message })));
            }
        }
    }
    if lines.last().is_some_and(|(_, line)| line.is_err()) {
        lines.pop();
    }
    lines.into_iter().map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_is_left_out_and_one_in_the_middle_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("metrics.jsonl");
        let whole = "{\"step\": 1, \"loss\": 0.5}\n{\"step\": 2, \"loss\": null}\n";
        std::fs::write(&path, format!("{whole}{{\"step\": 3, \"lo")).unwrap();
        let lines = read(&path).unwrap();
        assert_eq!(lines.iter().map(|line| line.step).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((lines[0].value("loss"), lines[1].value("loss")), (Some(0.5), None));
        std::fs::write(&path, format!("{{\"loss\": 1}}\n{whole}")).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("metrics.jsonl:1: `step` is missing"));
    }
}
