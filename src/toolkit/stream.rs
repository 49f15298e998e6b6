//! The records of sources as a stream, read as a configuration says.

use std::path::Path;

use super::records::feeds;
use crate::data::{DataConfig, Feed, Input, Record, Sources, Wanted};
use crate::error::Result;

/// The files of sources, each with the reader of its rows.
pub struct Stream(Vec<Feed>);

impl Stream {
    /// Finds the files: of this machine, of the Hub or of the embedded data. Format, columns and filter of a source precede
    /// those of `config`. `wanted` says which columns are read.
    ///
    /// # Errors
    /// If a file is missing, or a setting is invalid.
    pub fn open(config: &DataConfig, sources: &Sources, wanted: Wanted) -> Result<Self> {
        feeds(sources, config, wanted).map(Self)
    }

    /// Returns the files on disk.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().flat_map(|feed| &feed.inputs).filter_map(Input::path)
    }

    /// Reads the records in order, without those that a filter leaves out. An error concerns a single record; the following
    /// ones are still returned.
    pub fn records(&self) -> impl Iterator<Item = Result<Record>> {
        let inputs =
            self.0.iter().flat_map(|feed| feed.inputs.iter().map(move |input| (input, &feed.reader)));
        inputs.flat_map(|(input, reader)| -> Box<dyn Iterator<Item = Result<Record>>> {
            match input.rows() {
                Ok(rows) => Box::new(rows.filter_map(|row| row.and_then(|row| reader.read(row)).transpose())),
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        })
    }
}
