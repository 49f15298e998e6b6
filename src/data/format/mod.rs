//! File formats: one module per format, dispatched by one `match`.

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

/// A supported file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON Lines: one object per line.
    Jsonl,
    /// One array of objects. A file that actually contains JSON Lines is read as JSON Lines.
    Json,
}

/// The supported formats, for error messages.
pub const SUPPORTED: &str = ".jsonl, .ndjson (one JSON object a line) and .json (one array of objects)";

impl Format {
    /// Returns the format given by the extension of `path`. Without an extension (a pipe, for example) it is JSON
    /// Lines.
    ///
    /// # Errors
    /// Returns [`Error::Data`], which names the supported formats.
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

    /// Opens the file `path`, which origins call `name`.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the file cannot be opened.
    pub fn open(self, path: &Path, name: Arc<str>) -> Result<Rows> {
        let file = File::open(path).map_err(Error::read(path))?;
        self.rows(BufReader::new(file), path, name)
    }

    /// Returns the rows of `text`.
    ///
    /// # Errors
    /// Same as [`Format::open`].
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
                // The `datasets` library also writes JSON Lines to .json files.
                if first == Some(&b'{') {
                    Ok(jsonl::rows(Cursor::new(bytes), path, name))
                } else {
                    json::rows(&bytes, name)
                }
            }
        }
    }
}
