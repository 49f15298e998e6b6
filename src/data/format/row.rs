//! The common output of all formats: rows, and the parsing of their JSON.

use serde_json::Value as Json;

use super::super::example::Origin;
use crate::error::Result;

/// A record as it appears in its file, not yet validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The origin of the row.
    pub origin: Origin,
    /// The JSON value of the row; an object for a valid record.
    pub value: Json,
}

/// The rows of one input, read lazily. An error concerns a single row; the following rows are still returned.
pub type Rows = Box<dyn Iterator<Item = Result<Row>> + Send>;

/// Strips the byte-order mark that some editors write before UTF-8.
pub(super) fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

/// Parses `text` as one JSON value. The error is (line in `text`, message with the column in characters).
pub(super) fn parse_json(bytes: &[u8]) -> Result<Json, (usize, String)> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let (line, column) = place(&bytes[..e.valid_up_to()]);
        (line, format!("not valid UTF-8 at column {column}; save the file as UTF-8"))
    })?;
    serde_json::from_str(text).map_err(|e| {
        let line = text.lines().nth(e.line().saturating_sub(1)).unwrap_or("");
        // serde_json counts bytes, and its position is after the offending byte.
        let column = line.char_indices().take_while(|(byte, _)| byte + 1 < e.column()).count() + 1;
        let message = e.to_string();
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
        (e.line(), format!("not valid JSON at column {column}: {message}"))
    })
}

/// Returns the 1-based line and column (in characters) of the position after `read`.
fn place(read: &[u8]) -> (usize, usize) {
    let line = read.iter().filter(|byte| **byte == b'\n').count() + 1;
    let last = read.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    (line, String::from_utf8_lossy(last).chars().count() + 1)
}
