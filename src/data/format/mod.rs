//! File formats: one file each, one `match`.

mod json;
mod jsonl;
mod row;

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::path::Path;
use std::sync::Arc;

use self::row::without_bom;
pub use self::row::{Row, Rows};
use crate::error::{Error, Result};

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
