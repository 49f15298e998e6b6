//! File formats: one module per format, dispatched by one `match`.
//!
//! The name says what a file should be, its first bytes what it is: a compressed file is read as such under any
//! name, and JSON Lines, an array and an array in an object are told apart by their content.

mod csv;
mod elements;
mod json;
mod jsonl;
mod kind;
mod lines;
mod numbers;
mod parquet;
mod place;
mod python;
mod quotes;
mod row;
mod unambiguous;
mod unpack;

use std::fs::File;
use std::io::{BufReader, Cursor};
use std::path::Path;
use std::sync::Arc;

use self::kind::Kind;
use self::lines::Bytes;
pub(super) use self::numbers::stands_for;
use self::place::Place;
pub use self::row::{Row, Rows};
use crate::error::{Error, Result};

/// A supported file format, by the name of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON Lines: one object per line.
    Jsonl,
    /// One array of objects, or an object with such an array.
    Json,
    /// Comma-separated values with a header row.
    Csv,
    /// Tab-separated values with a header row.
    Tsv,
    /// Parquet: columns in row groups.
    Parquet,
}

/// The supported formats, for error messages.
pub const SUPPORTED: &str = ".jsonl, .ndjson (one JSON object per line), .json (one array of objects), .csv, .tsv, \
                             each also as .gz and .zst; .parquet";

/// What is said of a Parquet file that has to be read from its beginning to its end.
const PARQUET: &str = "a Parquet file is read from its end, so it can be neither compressed as a whole nor come through a \
                       pipe; unpack it and name the file";

impl Format {
    /// Returns the format that the extension of `path` names, below one of compression. Without an extension (a pipe,
    /// for example) it is JSON Lines.
    ///
    /// # Errors
    /// Returns [`Error::Data`], which names the supported formats.
    pub fn of(path: &Path) -> Result<Self> {
        match extension(path) {
            Some(extension) => Self::named(path).ok_or_else(|| {
                Error::Data(format!(
                    "{}: .{extension} files cannot be read; convert it to one of {SUPPORTED}",
                    path.display()
                ))
            }),
            None => Ok(Self::Jsonl),
        }
    }

    /// Returns the format that the extension of `path` names, if it names one.
    pub fn named(path: &Path) -> Option<Self> {
        Some(match extension(path)?.as_str() {
            "jsonl" | "ndjson" => Self::Jsonl,
            "json" => Self::Json,
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "parquet" => Self::Parquet,
            _ => return None,
        })
    }

    /// Opens the file `path`, which origins call `name`.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the file cannot be opened; [`Error::Data`] or [`Error::Record`] if it is of no format
    /// that can be read.
    pub fn open(self, path: &Path, name: Arc<str>) -> Result<Rows> {
        let file = File::open(path).map_err(Error::read(path))?;
        let place = Place::new(path.to_path_buf(), name);
        let (head, mut file) = unpack::head(file).map_err(Error::read(path))?;
        // A pipe cannot go back to its beginning.
        let reader: Bytes = match unpack::rewind(&mut file) {
            true if Kind::of(&head) == Kind::Parquet => {
                let size = file.metadata().map_err(Error::read(path))?.len();
                return parquet::rows(parquet::Source::File(file, size), place);
            }
            true => Box::new(BufReader::with_capacity(unpack::BUFFER, file)),
            false => unpack::chained(head, BufReader::with_capacity(unpack::BUFFER, file)),
        };
        self.rows(reader, place)
    }

    /// Returns the rows of `text`.
    ///
    /// # Errors
    /// Same as [`Format::open`].
    pub fn parse(self, text: impl AsRef<[u8]> + Send + 'static, name: Arc<str>) -> Result<Rows> {
        let place = Place::new(name.to_string().into(), name);
        if Kind::of(text.as_ref()) == Kind::Parquet {
            return parquet::rows(parquet::Source::Memory(bytes::Bytes::from_owner(text)), place);
        }
        self.rows(Box::new(Cursor::new(text)), place)
    }

    /// Returns the rows of `reader`, which cannot go back to its beginning.
    ///
    /// # Errors
    /// Same as [`Format::open`].
    pub fn read(self, reader: impl std::io::Read + Send + 'static, name: Arc<str>) -> Result<Rows> {
        let path = name.to_string().into();
        self.rows(Box::new(BufReader::with_capacity(unpack::BUFFER, reader)), Place::new(path, name))
    }

    fn rows(self, reader: Bytes, place: Place) -> Result<Rows> {
        let unpack::Unpacked { kind, head, reader } = unpack::unpack(reader, &place)?;
        match (kind, self) {
            (Kind::Foreign(what, remedy), _) => {
                Err(place.error(format!("the file is {what}, which cannot be read; {remedy}")))
            }
            (Kind::Parquet, _) => Err(place.error(PARQUET)),
            (Kind::Gzip | Kind::Zstd, _) => Err(place.error("the file is compressed three times; unpack it")),
            (Kind::Text, Self::Parquet) => Err(place
                .error("the file is no Parquet file: it does not begin with `PAR1`; is it another format?")),
            (Kind::Text, Self::Csv | Self::Tsv) if head.starts_with(b"{\"") || head.starts_with(b"[{") => {
                log::info!("{}: the file holds JSON and is read as such", place.name);
                json::rows(reader, place, true)
            }
            (Kind::Text, Self::Csv) => csv::rows(reader, place, false),
            (Kind::Text, Self::Tsv) => csv::rows(reader, place, true),
            (Kind::Text, Self::Jsonl) => json::rows(reader, place, true),
            (Kind::Text, Self::Json) => json::rows(reader, place, false),
        }
    }
}

/// The extension of `path` in lower case, without one of compression.
fn extension(path: &Path) -> Option<String> {
    let of = |path: &Path| path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    match of(path)?.as_str() {
        "gz" | "gzip" | "zst" | "zstd" => of(Path::new(path.file_stem()?)),
        other => Some(other.to_owned()),
    }
}
