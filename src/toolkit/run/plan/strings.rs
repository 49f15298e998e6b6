//! How large the tokenizer of a base is.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use crate::toolkit::{Base, Place};

/// Strings for each token, where they cannot be counted: the token, and the parts of the merge that makes it.
const OF_TOKEN: usize = 4;

/// Returns about how many strings the tokenizer of a base has: the tokens of its vocabulary, and the parts of its merges.
pub(super) fn count(base: &Base) -> usize {
    let counted = match &base.place {
        Place::Directory(directory) => in_file(&directory.join("tokenizer.json")),
        Place::Gguf(files) => Some(in_value(&files.tokenizer.tokenizer)),
    };
    counted.unwrap_or(OF_TOKEN * base.spec.vocab_size)
}

/// The strings of a JSON file, by its quotation marks; `None` if it is not there.
fn in_file(path: &Path) -> Option<usize> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path).ok()?);
    let mut marks = 0;
    loop {
        let bytes = reader.fill_buf().ok()?;
        if bytes.is_empty() {
            return Some(marks / 2);
        }
        marks += bytes.iter().map(|byte| usize::from(*byte == b'"')).sum::<usize>();
        let read = bytes.len();
        reader.consume(read);
    }
}

fn in_value(value: &Value) -> usize {
    match value {
        Value::String(_) => 1,
        Value::Array(values) => values.iter().map(in_value).sum(),
        Value::Object(fields) => fields.values().map(|field| 1 + in_value(field)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_its_value_have_the_same_strings() {
        let text =
            r#"{"model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "dropout": null}}"#;
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("tokenizer.json");
        std::fs::write(&path, text).unwrap();
        // Four keys, three tokens and two parts.
        assert_eq!(in_file(&path), Some(9));
        assert_eq!(in_value(&serde_json::from_str(text).unwrap()), 9);
        assert_eq!(in_file(&place.path().join("none.json")), None);
    }
}
