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
/// If the file cannot be read, or a whole line is no log line; the message names the line.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let mut file = BufReader::new(File::open(path).map_err(Error::read(path))?);
    let (mut lines, mut number, mut text) = (Vec::new(), 0, Vec::new());
    loop {
        text.clear();
        if file.read_until(b'\n', &mut text).map_err(Error::read(path))? == 0 {
            return Ok(lines);
        }
        number += 1;
        let is_whole = text.ends_with(b"\n");
        let found = match serde_json::from_slice::<Value>(&text) {
            Ok(value) => line(value),
            // A part of an object is no JSON.
            Err(_) if !is_whole => return Ok(lines),
            Err(_) if text.trim_ascii().is_empty() => continue,
            Err(error) => Err(format!("the line is no JSON: {error}")),
        };
        lines.push(found.map_err(|message| Error::Record {
            file: path.display().to_string(),
            line: number,
            message,
        })?);
    }
}

/// A value as a line of the log, or what is wrong with it.
fn line(value: Value) -> Result<Line, String> {
    let Value::Object(values) = value else {
        return Err(format!("{value} is no log line; it must be an object with a `step`"));
    };
    match values.get(STEP) {
        Some(step) => match step.as_u64() {
            Some(step) => Ok(Line { step, values }),
            None => Err(format!("`step` is {step}; it must be a whole number of 0 or more")),
        },
        None => Err("`step` is missing".into()),
    }
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

    #[test]
    fn what_is_no_log_is_named_also_in_the_last_line() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("metrics.jsonl");
        let first = "{\"step\": 1}\n\n";
        for (last, said) in [
            (
                "{\"step\": \"x\", \"loss\": {\"a\": 1}}",
                "metrics.jsonl:3: `step` is \"x\"; it must be a whole number",
            ),
            ("{\"step\": 1.5}\n", "metrics.jsonl:3: `step` is 1.5;"),
            ("[2]\n", "metrics.jsonl:3: [2] is no log line"),
            ("step 2\n", "metrics.jsonl:3: the line is no JSON"),
        ] {
            std::fs::write(&path, format!("{first}{last}")).unwrap();
            let found = read(&path).unwrap_err().to_string();
            assert!(found.contains(said), "{last}: {found}");
        }
        std::fs::write(&path, format!("{first}\n")).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
    }
}
