//! File formats: one file each, one `match`.

mod json;
mod jsonl;

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;

use super::example::Origin;
use crate::error::{Error, Result};

/// A record as it stands in its file, not yet looked into.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Where it stands.
    pub origin: Origin,
    /// The JSON value there; an object, if it is a record.
    pub value: Json,
}

/// The rows of one input, read as they are asked for. An error stands for one row; the rows behind it still come.
pub type Rows = Box<dyn Iterator<Item = Result<Row>> + Send>;

/// A file format that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON Lines: an object a line.
    Jsonl,
    /// One array of objects; a file that is JSON Lines in truth is read as such.
    Json,
}

/// What can be read, for messages.
pub const SUPPORTED: &str = ".jsonl, .ndjson (one JSON object a line) and .json (one array of objects)";

impl Format {
    /// The format that the extension of `path` names; without an extension (a pipe, say) JSON Lines.
    ///
    /// # Errors
    /// [`Error::Data`] naming the formats that can be read.
    pub fn of(path: &Path) -> Result<Self> {
        let Some(extension) = path.extension() else { return Ok(Self::Jsonl) };
        match extension.to_string_lossy().to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Ok(Self::Jsonl),
            "json" => Ok(Self::Json),
            other => Err(Error::Data(format!(
                "{}: .{other} files cannot be read; convert it to one of {SUPPORTED}",
                path.display()
            ))),
        }
    }

    /// Opens the file `path`, named `name` in origins.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be opened.
    pub fn open(self, path: &Path, name: Arc<str>) -> Result<Rows> {
        let file = File::open(path).map_err(Error::read(path))?;
        self.rows(BufReader::new(file), path, name)
    }

    /// The rows of `text`.
    ///
    /// # Errors
    /// As [`Format::open`].
    pub fn parse(self, text: impl AsRef<[u8]> + Send + 'static, name: Arc<str>) -> Result<Rows> {
        let path = name.to_string();
        self.rows(Cursor::new(text), Path::new(&path), name)
    }

    fn rows(self, mut reader: impl BufRead + Send + 'static, path: &Path, name: Arc<str>) -> Result<Rows> {
        match self {
            Self::Jsonl => Ok(jsonl::rows(reader, path, name)),
            Self::Json => {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map_err(Error::read(path))?;
                let first = without_bom(&bytes).iter().find(|byte| !byte.is_ascii_whitespace());
                // datasets writes JSON Lines under .json too.
                if first == Some(&b'{') {
                    Ok(jsonl::rows(Cursor::new(bytes), path, name))
                } else {
                    json::rows(&bytes, name)
                }
            }
        }
    }
}

/// Some editors put a byte-order mark before UTF-8.
fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

/// `text` as one JSON value, or what is wrong with it: (line in `text`, message with the column in characters).
fn parse_json(bytes: &[u8]) -> Result<Json, (usize, String)> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let (line, column) = place(&bytes[..e.valid_up_to()]);
        (line, format!("not valid UTF-8 at column {column}; save the file as UTF-8"))
    })?;
    serde_json::from_str(text).map_err(|e| {
        let line = text.lines().nth(e.line().saturating_sub(1)).unwrap_or("");
        // serde_json counts bytes and stands behind the byte it could not take.
        let column = line.char_indices().take_while(|(byte, _)| byte + 1 < e.column()).count() + 1;
        let message = e.to_string();
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
        (e.line(), format!("not valid JSON at column {column}: {message}"))
    })
}

/// 1-based line and column (in characters) behind `read`.
fn place(read: &[u8]) -> (usize, usize) {
    let line = read.iter().filter(|byte| **byte == b'\n').count() + 1;
    let last = read.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    (line, String::from_utf8_lossy(last).chars().count() + 1)
}
