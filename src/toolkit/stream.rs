//! The records of sources as a stream, read as a configuration says.

use std::path::Path;
use std::sync::Arc;

use super::{embedded, hub};
use crate::data::config::DataConfig;
use crate::data::{Input, Record, Sources, records::RecordReader, source};
use crate::error::Result;

/// The files of sources, each with the reader of its rows.
pub struct Stream(Vec<(Input, Arc<RecordReader>)>);

impl Stream {
    /// Finds the files: of this machine, of the Hub or of the embedded data. Format, columns and filter of a source precede
    /// those of `config`.
    ///
    /// # Errors
    /// If a file is missing, or a setting is invalid.
    pub fn open(config: &DataConfig, sources: &Sources) -> Result<Self> {
        let mut inputs = Vec::new();
        for source in &sources.0 {
            let reader = Arc::new(RecordReader::of(config, source)?);
            let name = source.path();
            let files: Sources = match name.strip_prefix(hub::PREFIX) {
                Some(dataset) => hub::dataset(dataset)?.into_iter().collect(),
                None => match embedded::path(&name)? {
                    Some(path) => path.display().to_string().into(),
                    None => name.into(),
                },
            };
            let found = source::resolve(&files)?;
            inputs.extend(found.into_iter().map(|input| (input, Arc::clone(&reader))));
        }
        Ok(Self(inputs))
    }

    /// Returns the files on disk.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter_map(|(input, _)| match input {
            Input::File(path, _) => Some(path.as_path()),
            Input::Text { .. } | Input::Stdin => None,
        })
    }

    /// Reads the records in order, without those that a filter leaves out. An error concerns a single record; the following
    /// ones are still returned.
    pub fn records(&self) -> impl Iterator<Item = Result<Record>> {
        self.0.iter().flat_map(|(input, reader)| -> Box<dyn Iterator<Item = Result<Record>>> {
            match input.rows() {
                Ok(rows) => Box::new(rows.filter_map(|row| row.and_then(|row| reader.read(row)).transpose())),
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        })
    }
}
