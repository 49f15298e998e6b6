//! The common output of all formats: rows, and the parsing of their JSON.

use serde_json::Value as Json;

use super::super::example::Origin;
use super::python;
use super::unambiguous::parse;
use crate::error::{Error, Result};

/// The maximum size in bytes of a row that is held in memory: a line, an element of an array, a record of a CSV file, a
/// row of a Parquet file. `records` takes less of the columns that are used.
pub(super) const MOST_BYTES: usize = 64 << 20;

/// An error behind which nothing of a file can be read: it is not that of one row, which could be skipped.
pub(super) fn ends_the_file(error: Error) -> Error {
    match error {
        Error::Record { file, line, message } => {
            Error::Data(format!("{file}:{line}: {message}; nothing behind it can be read"))
        }
        other => other,
    }
}

/// A record as it appears in its file, not yet validated.
///
/// JSON has no NaN. It is read as the object `{"NaN": PLACE}`, and the infinities likewise. An unused column may
/// contain it; in a column that is used it is an error of type, whose message names NaN (`fields::described`).
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The origin of the row.
    pub origin: Origin,
    /// The JSON value of the row; an object for a valid record.
    pub value: Json,
}

/// The rows of one input, read lazily. An error concerns a single row; the following rows are still returned.
pub type Rows = Box<dyn Iterator<Item = Result<Row>> + Send>;

/// What is said of a text that is no JSON.
const NO_JSON: &str = "not valid JSON";

/// Characters that an editor does not show, and that JSON allows only in strings.
const HIDDEN: [(char, &str); 4] = [
    ('\0', "a NUL byte"),
    ('\u{feff}', "a byte-order mark (U+FEFF)"),
    ('\u{a0}', "a no-break space (U+00A0)"),
    ('\u{200b}', "a zero-width space (U+200B)"),
];

/// Invalid JSON.
pub(super) struct Broken {
    /// 1-based line in the text.
    pub(super) line: usize,
    /// 1-based column in characters.
    pub(super) column: usize,
    /// The message before the column, beginning with `not valid`.
    what: &'static str,
    /// The message after the column.
    detail: String,
    /// Whether the text ends too early.
    pub(super) unfinished: bool,
}

impl Broken {
    /// Whether the text is no JSON, of which its layout in the file may be the reason.
    pub(super) fn is_syntax(&self) -> bool {
        self.what == NO_JSON
    }

    /// Returns the message with its column. `before` is the number of characters before the text in its first line.
    pub(super) fn message(&self, before: usize) -> String {
        let column = if self.line == 1 { self.column + before } else { self.column };
        format!("{} at column {column}{}", self.what, self.detail)
    }
}

/// Parses `text` as one JSON value. NaN and the infinities are accepted as Python's json writes them.
pub(super) fn parse_json(bytes: &[u8]) -> Result<Json, Broken> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let (line, column) = place(&bytes[..e.valid_up_to()]);
        let detail = "; save the file as UTF-8".to_owned();
        Broken { line, column, what: "not valid UTF-8", detail, unfinished: false }
    })?;
    match parse(text) {
        Ok(value) => exact(text, value),
        Err(first) => match python::read(text) {
            python::Reading::Value(value) => exact(text, value),
            python::Reading::Plain => Err(broken(text, &first)),
            // The numbers are valid; the error is elsewhere.
            python::Reading::Other(error) => Err(broken(text, &error)),
            python::Reading::Surrogate { at, escape } => {
                let (line, column) = place(&bytes[..at]);
                let detail = format!(
                    ": `{escape}` is half of a surrogate pair and no character; Python writes it when an emoji was cut \
                     in two. Remove it, or write both halves"
                );
                Err(Broken { line, column, what: "not a text", detail, unfinished: false })
            }
        },
    }
}

/// Refuses integers beyond 64 bits, which have become floating-point numbers of fewer digits.
fn exact(text: &str, value: Json) -> Result<Json, Broken> {
    if !has_huge(&value) {
        return Ok(value);
    }
    let Some((at, digits)) = inexact(text) else { return Ok(value) };
    let (line, column) = place(&text.as_bytes()[..at]);
    let shown: String = digits.chars().take(40).collect();
    let detail = format!(
        ": {shown} is an integer beyond 64 bits and would lose digits; write it as a string, or remove it"
    );
    Err(Broken { line, column, what: "not a number that is read exactly", detail, unfinished: false })
}

fn has_huge(value: &Json) -> bool {
    match value {
        Json::Number(number) => number.is_f64() && number.as_f64().is_some_and(|number| number.abs() >= 9e18),
        // The recursion is as deep as the JSON, which its parser limits to 128.
        Json::Array(values) => values.iter().any(has_huge),
        Json::Object(fields) => fields.values().any(has_huge),
        Json::Null | Json::Bool(_) | Json::String(_) => false,
    }
}

/// Finds the first integer of valid JSON that no 64 bits hold: its position in bytes, and its digits.
fn inexact(text: &str) -> Option<(usize, &str)> {
    let bytes = text.as_bytes();
    let (mut at, mut quoted) = (0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'-' | b'0'..=b'9' if !quoted => {
                let length = bytes[at..].iter().take_while(|byte| b"+-.eE0123456789".contains(byte)).count();
                let number = &text[at..at + length];
                let integer = !number.contains(['.', 'e', 'E']) && number.len() > 18;
                if integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                    return Some((at, number));
                }
                at += length.saturating_sub(1);
            }
            _ => {}
        }
        at += 1;
    }
    None
}

fn broken(text: &str, e: &serde_json::Error) -> Broken {
    let line = text.lines().nth(e.line().saturating_sub(1)).unwrap_or("");
    // serde_json counts bytes, and its position is after the offending byte.
    let column = line.char_indices().take_while(|(byte, _)| byte + 1 < e.column()).count() + 1;
    let message = e.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    let found = line.chars().nth(column - 1).filter(|_| e.is_syntax());
    let detail = match HIDDEN.iter().find(|(hidden, _)| found == Some(*hidden)) {
        Some((_, name)) => format!(": {name}, which is not visible, stands here; remove it"),
        None => format!(": {message}"),
    };
    let what = if e.is_data() { "an ambiguous object" } else { NO_JSON };
    Broken { line: e.line(), column, what, detail, unfinished: e.is_eof() }
}

/// Returns the 1-based line and column (in characters) of the position after `read`.
fn place(read: &[u8]) -> (usize, usize) {
    let line = read.iter().filter(|byte| **byte == b'\n').count() + 1;
    let last = read.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    (line, String::from_utf8_lossy(last).chars().count() + 1)
}
