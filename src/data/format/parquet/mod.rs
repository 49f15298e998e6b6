//! Parquet: rows as the JSON objects that `datasets` would write for them. Rows count from 1.
//!
//! Pages and levels are decoded by the arrow project's crate; rows are put together here, one at a time. A file may claim
//! anything: sizes, counts and depths are checked before the crate, which trusts them, is called.
//!
//! A struct has the same keys in every row. Below `tools` and the arguments of calls, keys whose value is null are left out:
//! they cannot be told from keys that a row did not have.

mod assemble;
mod column;
mod guard;
mod pages;
mod schema;
mod source;
mod thrift;
mod values;

use std::sync::Arc;

use ::parquet::file::metadata::{
    ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy,
};
use ::parquet::file::reader::{ChunkReader, Length};

use self::assemble::Fault;
use self::column::Column;
use self::schema::Node;
pub(super) use self::source::Source;
use super::place::Place;
use super::row::{MOST_BYTES, Row, Rows};
use crate::data::guarded;
use crate::error::{Error, Result};

/// Rows per byte of the pages of a group, at most. A run of equal values takes a few bytes; a file that claims more rows
/// would be read for hours.
const MOST_ROWS_PER_BYTE: u64 = 1 << 16;

/// `PAR1`, the length of the metadata and `PAR1`.
const ENDS: u64 = 12;
/// The longest metadata, in bytes. Those of 10,000 row groups of ten columns have about 15 MB.
const MOST_METADATA: usize = 64 << 20;
/// The pages that are in memory at once, one of each column and its dictionary, in bytes.
const MOST_PAGES: u64 = 512 << 20;

/// Returns the rows of `source`.
///
/// # Errors
/// If the file is damaged or encrypted, or has columns of types that are not supported.
pub(super) fn rows(source: Source, place: Place) -> Result<Rows> {
    let opened = guarded::caught(|| open(&source)).unwrap_or_else(|| Err(PANIC.into()));
    let (metadata, fields) = opened.map_err(|why| place.error(why))?;
    let source = Arc::new(source);
    Ok(Box::new(Records {
        source,
        metadata,
        fields,
        place,
        columns: Vec::new(),
        group: 0,
        left: 0,
        row: 0,
        ended: false,
    }))
}

/// What is said where the library panics.
const PANIC: &str = "the Parquet file is damaged";

type Opened = (ParquetMetaData, Vec<(String, Node)>);

fn open(source: &Source) -> Result<Opened, String> {
    let size = source.len();
    let ends = size.checked_sub(8).filter(|_| size >= ENDS);
    let ends = ends.ok_or("the Parquet file is cut off: it has no end")?;
    let tail = source.get_bytes(ends, 8).map_err(|e| e.to_string())?;
    match &tail[4..] {
        b"PAR1" => {}
        b"PARE" => return Err("the Parquet file is encrypted, which cannot be read; decrypt it".into()),
        _ => return Err("the Parquet file is cut off: it does not end in `PAR1`".into()),
    }
    let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    let start = ends.checked_sub(u64::from(length)).filter(|start| *start >= 4).ok_or_else(|| {
        format!("the Parquet file claims {length} bytes of metadata, but has {size} in all")
    })?;
    let length = length as usize;
    if length > MOST_METADATA {
        return Err(format!(
            "the Parquet file has {length} bytes of metadata; at most {} MiB are read, so write it with larger row groups",
            MOST_METADATA >> 20
        ));
    }
    let text = source.get_bytes(start, length).map_err(|e| e.to_string())?;
    match thrift::schema_depth(&text, schema::DEPTH) {
        Some(true) => {}
        Some(false) => {
            return Err(format!(
                "the Parquet file has more than {} groups inside one another",
                schema::DEPTH
            ));
        }
        None => return Err("the metadata of the Parquet file are damaged".into()),
    }
    let options = ParquetMetaDataOptions::new()
        .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .with_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll);
    let metadata = ParquetMetaDataReader::decode_metadata_with_options(&text, Some(&options))
        .map_err(|e| format!("the metadata of the Parquet file are damaged: {e}"))?;
    let fields = schema::columns(metadata.file_metadata().schema_descr())
        .map_err(|why| format!("the Parquet file cannot be read: {why}"))?;
    Ok((metadata, fields))
}

struct Records {
    source: Arc<Source>,
    metadata: ParquetMetaData,
    fields: Vec<(String, Node)>,
    place: Place,
    columns: Vec<Column>,
    /// The next row group.
    group: usize,
    /// The rows that are left of this one.
    left: u64,
    /// The rows read so far.
    row: usize,
    ended: bool,
}

/// Why a row is not returned.
enum Failure {
    /// Of this row; the next ones can be read.
    Row(String),
    /// Of the file; nothing behind it can be read.
    File(String),
}

impl Iterator for Records {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let found = guarded::caught(|| self.read()).unwrap_or_else(|| Err(Failure::File(PANIC.into())));
        match found {
            Ok(Some(row)) => Some(Ok(row)),
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(Failure::Row(why)) => Some(Err(self.place.row(self.row).error(why))),
            Err(Failure::File(why)) => {
                self.ended = true;
                Some(Err(Error::Data(format!("{}:{}: {why}", self.place.name, self.row + 1))))
            }
        }
    }
}

impl Records {
    fn read(&mut self) -> Result<Option<Row>, Failure> {
        while self.left == 0 {
            if self.group == self.metadata.num_row_groups() {
                return Ok(None);
            }
            self.open_group().map_err(Failure::File)?;
        }
        let mut bytes = 0;
        for column in &mut self.columns {
            let found = match column.advance() {
                Ok(found) => {
                    found.ok_or_else(|| format!("it ends {} row(s) before its row group", self.left))
                }
                Err(e) => Err(e.to_string()),
            };
            bytes += found
                .map_err(|why| Failure::File(format!("column `{}` cannot be read: {why}", column.name)))?;
        }
        self.left -= 1;
        self.row += 1;
        if bytes > MOST_BYTES {
            return Err(Failure::Row(format!("the row has more than {} MiB of text", MOST_BYTES >> 20)));
        }
        match assemble::row(&self.fields, &mut self.columns) {
            Ok(value) => Ok(Some(Row { origin: self.place.row(self.row), value })),
            Err(Fault::Value(why)) => Err(Failure::Row(format!("column {why}"))),
            Err(Fault::Levels) => {
                self.row -= 1;
                Err(Failure::File("the columns of the row contradict each other; the file is damaged".into()))
            }
        }
    }

    /// Opens the next row group.
    fn open_group(&mut self) -> Result<(), String> {
        let group = self.metadata.row_group(self.group);
        self.group += 1;
        let damaged = |why: String| format!("row group {} cannot be read: {why}", self.group);
        self.left =
            u64::try_from(group.num_rows()).map_err(|_| damaged("its number of rows is negative".into()))?;
        self.columns.clear();
        if self.left == 0 {
            return Ok(());
        }
        if group.num_columns() != self.metadata.file_metadata().schema_descr().num_columns() {
            return Err(damaged("it does not have the columns of the file".into()));
        }
        let packed = group.columns().iter().map(|chunk| chunk.compressed_size().max(0).unsigned_abs());
        if self.left > packed.sum::<u64>().saturating_mul(MOST_ROWS_PER_BYTE) {
            return Err(damaged(format!("its pages cannot hold the {} rows that it claims", self.left)));
        }
        let mut memory = 0_u64;
        for (index, chunk) in group.columns().iter().enumerate() {
            let name = chunk.column_path().string();
            let bytes =
                pages::check(&self.source, chunk).map_err(|why| damaged(format!("column `{name}` {why}")))?;
            memory = memory.saturating_add(bytes);
            if memory > MOST_PAGES {
                return Err(damaged(format!(
                    "its columns have pages of more than {} MiB at once; write the file with smaller pages",
                    MOST_PAGES >> 20
                )));
            }
            let column = Column::open(&self.source, group, index).map_err(|e| damaged(e.to_string()))?;
            self.columns.push(column);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ::parquet::data_type::{ByteArray, ByteArrayType};
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;
    use serde_json::{Value as Json, json};

    use super::super::Format;
    use super::*;

    const SCHEMA: &str = "message m {
        optional group tools (LIST) { repeated group list { optional group element {
            optional binary name (UTF8);
            optional group parameters { optional binary a (UTF8); optional binary b (UTF8); }
        } } }
        optional group call { optional binary id (UTF8); optional group arguments { optional binary a (UTF8); } }
    }";

    #[test]
    fn a_struct_of_tools_or_arguments_has_no_keys_for_nulls() {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        // One row with two tools and one call. Each column: its values, definition levels and repetition levels.
        let two = Some(&[0_i16, 1][..]);
        type Column<'a> = (&'a [&'a str], &'a [i16], Option<&'a [i16]>);
        let columns: [Column; 5] = [
            (&["f"], &[4, 3], two),
            (&["x"], &[5, 4], two),
            (&["y"], &[4, 5], two),
            (&[], &[1], None),
            (&[], &[2], None),
        ];
        for (values, definition, repetition) in columns {
            let values: Vec<ByteArray> = values.iter().map(|text| ByteArray::from(*text)).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(definition), repetition).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        let rows = Format::Parquet.parse(writer.into_inner().unwrap(), "t".into()).unwrap();
        let found: Vec<Json> = rows.map(|row| row.unwrap().value).collect();
        let tools = json!([{"name": "f", "parameters": {"a": "x"}}, {"parameters": {"b": "y"}}]);
        assert_eq!(found, [json!({"tools": tools, "call": {"id": null, "arguments": {}}})]);
    }
}
