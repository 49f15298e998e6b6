//! One column of a row group, read row by row.

use std::sync::Arc;

use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use ::parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray, FixedLenByteArrayType,
    FloatType, Int32Type, Int64Type, Int96, Int96Type,
};
use ::parquet::errors::Result;
use ::parquet::file::metadata::RowGroupMetaData;
use ::parquet::file::reader::SerializedPageReader;

use super::guard::Guarded;
use super::source::Source;
use super::values::Scalar;

/// A column and the levels and values of one row.
pub(super) struct Column {
    values: Values,
    /// `messages.list.element.role`.
    pub(super) name: String,
    /// The levels of all values if the column has no levels of its own.
    highest: i16,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
    count: usize,
    /// The next value, and the next of those that are not null.
    at: usize,
    value: usize,
}

enum Values {
    Bool(ColumnReaderImpl<BoolType>, Vec<bool>),
    Int32(ColumnReaderImpl<Int32Type>, Vec<i32>),
    Int64(ColumnReaderImpl<Int64Type>, Vec<i64>),
    Int96(ColumnReaderImpl<Int96Type>, Vec<Int96>),
    Float(ColumnReaderImpl<FloatType>, Vec<f32>),
    Double(ColumnReaderImpl<DoubleType>, Vec<f64>),
    Bytes(ColumnReaderImpl<ByteArrayType>, Vec<ByteArray>),
    Fixed(ColumnReaderImpl<FixedLenByteArrayType>, Vec<FixedLenByteArray>),
}

impl Column {
    /// Opens column `index` of a row group.
    ///
    /// # Errors
    /// Those of the library.
    pub(super) fn open(source: &Arc<Source>, group: &RowGroupMetaData, index: usize) -> Result<Self> {
        let chunk = group.column(index);
        let description = chunk.column_descr_ptr();
        let rows = usize::try_from(group.num_rows())?;
        let pages = SerializedPageReader::new(Arc::clone(source), chunk, rows, None)?;
        let pages = Box::new(Guarded::new(pages, &description));
        let values = match get_column_reader(description.clone(), pages) {
            ColumnReader::BoolColumnReader(reader) => Values::Bool(reader, Vec::new()),
            ColumnReader::Int32ColumnReader(reader) => Values::Int32(reader, Vec::new()),
            ColumnReader::Int64ColumnReader(reader) => Values::Int64(reader, Vec::new()),
            ColumnReader::Int96ColumnReader(reader) => Values::Int96(reader, Vec::new()),
            ColumnReader::FloatColumnReader(reader) => Values::Float(reader, Vec::new()),
            ColumnReader::DoubleColumnReader(reader) => Values::Double(reader, Vec::new()),
            ColumnReader::ByteArrayColumnReader(reader) => Values::Bytes(reader, Vec::new()),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => Values::Fixed(reader, Vec::new()),
        };
        Ok(Self {
            values,
            name: description.path().string(),
            highest: description.max_def_level(),
            definitions: Vec::new(),
            repetitions: Vec::new(),
            count: 0,
            at: 0,
            value: 0,
        })
    }

    /// Reads the next row. Returns the bytes of its texts; `None` if there is no further row.
    ///
    /// # Errors
    /// Those of the library.
    pub(super) fn advance(&mut self) -> Result<Option<usize>> {
        self.definitions.clear();
        self.repetitions.clear();
        (self.at, self.value) = (0, 0);
        let levels = (&mut self.definitions, &mut self.repetitions);
        let ((rows, count), bytes) = match &mut self.values {
            Values::Bool(reader, values) => (read(reader, values, levels)?, 0),
            Values::Int32(reader, values) => (read(reader, values, levels)?, 0),
            Values::Int64(reader, values) => (read(reader, values, levels)?, 0),
            Values::Int96(reader, values) => (read(reader, values, levels)?, 0),
            Values::Float(reader, values) => (read(reader, values, levels)?, 0),
            Values::Double(reader, values) => (read(reader, values, levels)?, 0),
            Values::Bytes(reader, values) => {
                (read(reader, values, levels)?, values.iter().map(ByteArray::len).sum())
            }
            Values::Fixed(reader, values) => {
                (read(reader, values, levels)?, values.iter().map(|value| value.len()).sum())
            }
        };
        self.count = count;
        Ok((rows == 1).then_some(bytes))
    }

    /// The definition level of the next value of the row.
    pub(super) fn definition(&self) -> Option<i16> {
        let level = || self.definitions.get(self.at).copied().unwrap_or(self.highest);
        (self.at < self.count).then(level)
    }

    /// The repetition level of the next value of the row.
    pub(super) fn repetition(&self) -> Option<i16> {
        (self.at < self.count).then(|| self.repetitions.get(self.at).copied().unwrap_or(0))
    }

    /// Passes over a value that is null.
    pub(super) fn skip(&mut self) {
        self.at += 1;
    }

    /// The next value, which is not null.
    pub(super) fn take(&mut self) -> Option<Scalar<'_>> {
        let at = self.value;
        self.value += 1;
        self.at += 1;
        Some(match &self.values {
            Values::Bool(_, values) => Scalar::Bool(*values.get(at)?),
            Values::Int32(_, values) => Scalar::Int32(*values.get(at)?),
            Values::Int64(_, values) => Scalar::Int64(*values.get(at)?),
            Values::Int96(_, values) => Scalar::Int96(values.get(at)?),
            Values::Float(_, values) => Scalar::Float(*values.get(at)?),
            Values::Double(_, values) => Scalar::Double(*values.get(at)?),
            Values::Bytes(_, values) => Scalar::Bytes(bytes(values.get(at)?)),
            Values::Fixed(_, values) => Scalar::Bytes(bytes(values.get(at)?)),
        })
    }
}

/// The bytes of a value; the library panics for one without any.
fn bytes(value: &ByteArray) -> &[u8] {
    if value.is_empty() { &[] } else { value.data() }
}

/// Reads one row; returns the number of rows and of levels.
fn read<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    values: &mut Vec<T::T>,
    (definitions, repetitions): (&mut Vec<i16>, &mut Vec<i16>),
) -> Result<(usize, usize)> {
    values.clear();
    let (rows, _, levels) = reader.read_records(1, Some(definitions), Some(repetitions), values)?;
    Ok((rows, levels))
}
