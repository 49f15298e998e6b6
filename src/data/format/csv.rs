//! Comma- and tab-separated values with a header row. A row's line is the physical line that it begins in.
//!
//! Cells are strings, as pandas writes them; an empty one is a missing value (null).

use std::io::{self, Chain, Cursor, Read};

use csv::{ByteRecord, Reader, ReaderBuilder, Terminator};
use serde_json::{Map, Value as Json};

use super::lines::{Bytes, Line, read_line};
use super::place::Place;
use super::quotes::{Marks, Scanner, remedy};
use super::row::{MOST_BYTES, Row, Rows, ends_the_file};
use crate::error::{Error, Result};

/// The longest header row, in bytes.
const MOST_HEADER: usize = 1 << 20;
/// What to do about a row with too many cells, or too few.
const QUOTE: &str = "quote a cell that holds a separator or a line break";
/// A record behind the end of the file. If a quotation mark is never closed, it is swallowed by the last record.
const END: &str = "\0end\0";

/// Returns the rows of `reader`; `tabs` tells whether the file's name is that of tab-separated values.
///
/// # Errors
/// If there is no header row, or names are missing or repeated.
pub(super) fn rows(mut reader: Bytes, place: Place, tabs: bool) -> Result<Rows> {
    let mut header = Vec::new();
    match read_line(&mut reader, &mut header, MOST_HEADER).map_err(Error::read(&place.path))? {
        Line::Whole => {}
        Line::End => return Err(place.error("the file is empty; its first row must name the columns")),
        Line::TooLong => {
            return Err(place.row(1).error("the header row is longer than 1 MiB; is this a CSV file?"));
        }
    }
    let delimiter = delimiter(&header, tabs, &place)?;
    let input = Bounded { inner: Cursor::new(header).chain(reader), left: MOST_BYTES };
    let inner = input.chain(Cursor::new(format!("\n{END}\n").into_bytes()));
    let input = Watched { inner, scanner: Scanner::new(delimiter) };
    let reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        // With `\r\n`, the parser's count of lines would depend on which of the two it has seen.
        .terminator(Terminator::Any(b'\n'))
        .from_reader(input);
    let mut records = Records {
        reader,
        place,
        names: Vec::new(),
        record: ByteRecord::new(),
        marks: Marks::default(),
        is_tabs: delimiter == b'\t',
        warned: false,
        ended: false,
    };
    match records.advance()? {
        Some(line) => records.names = records.header(line)?,
        None => {
            return Err(records
                .place
                .error("the file has no header row; its first row must name the columns"));
        }
    }
    Ok(Box::new(records))
}

/// The delimiter: the one of the file's name, unless the header has only the other.
fn delimiter(header: &[u8], tabs: bool, place: &Place) -> Result<u8> {
    let (own, other) = if tabs { (b'\t', b',') } else { (b',', b'\t') };
    match (header.contains(&own), header.contains(&other)) {
        (true, _) => Ok(own),
        (false, true) => {
            let found = if tabs { "commas" } else { "tabs" };
            log::info!("{}: the header row is separated by {found}, and so is the file read", place.name);
            Ok(other)
        }
        (false, false) if header.contains(&b';') => Err(place.row(1).error(
            "the header row is separated by semicolons; separate the file by commas or tabs (pandas: read_csv(..., \
             sep=\";\"), then to_csv(..., index=False))",
        )),
        (false, false) => Ok(own),
    }
}

/// A reader that fails when more bytes than `left` are read.
struct Bounded {
    inner: Chain<Cursor<Vec<u8>>, Bytes>,
    left: usize,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read).ok_or_else(|| {
            io::Error::other(format!(
                "a record is longer than {} MiB; is a quotation mark not closed?",
                MOST_BYTES >> 20
            ))
        })?;
        Ok(read)
    }
}

/// A reader whose quotation marks are watched.
struct Watched {
    inner: Chain<Bounded, Cursor<Vec<u8>>>,
    scanner: Scanner,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.scanner.read(&buffer[..read]);
        Ok(read)
    }
}

struct Records {
    reader: Reader<Watched>,
    place: Place,
    names: Vec<String>,
    record: ByteRecord,
    /// What the quotation marks of the record show.
    marks: Marks,
    is_tabs: bool,
    /// Whether a warning of lines that may be rows has been given.
    warned: bool,
    ended: bool,
}

impl Iterator for Records {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.advance() {
            Ok(Some(line)) => Some(self.row(line)),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl Records {
    /// Reads the next record that is not blank; returns the line that it begins in.
    fn advance(&mut self) -> Result<Option<usize>> {
        while !self.ended {
            self.reader.get_mut().inner.get_mut().0.left = MOST_BYTES;
            let begins = usize::try_from(self.reader.position().line()).unwrap_or(usize::MAX).max(1);
            let found = self.reader.read_byte_record(&mut self.record);
            let end = self.reader.position().byte();
            self.marks = self.reader.get_mut().scanner.record(end);
            // Behind the record's line feed.
            let next = usize::try_from(self.reader.position().line()).unwrap_or(usize::MAX);
            let feeds: usize =
                self.record.iter().map(|cell| cell.iter().filter(|byte| **byte == b'\n').count()).sum();
            let line = next.saturating_sub(1 + feeds).max(1);
            match found {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    self.ended = true;
                    return Err(ends_the_file(match e.into_kind() {
                        csv::ErrorKind::Io(e) if e.kind() == io::ErrorKind::Other => {
                            self.place.row(begins).error(e.to_string())
                        }
                        csv::ErrorKind::Io(e) => Error::read(&self.place.path)(e),
                        other => self.place.row(line).error(format!("not a valid CSV record: {other:?}")),
                    }));
                }
            }
            match self.record.iter().next_back() {
                Some(last) if self.record.len() == 1 && last == END.as_bytes() => break,
                Some(last) if last.ends_with(format!("\n{END}\n").as_bytes()) => {
                    self.ended = true;
                    // Such a record has no line feed of its own.
                    let remedy = remedy(self.reader.get_ref().scanner.is_escaped());
                    return Err(ends_the_file(self.place.row(next.saturating_sub(feeds)).error(format!(
                        "a quotation mark of the record that begins here is never closed; {remedy}"
                    ))));
                }
                Some(last) if self.record.len() == 1 && last == b"\r" => {}
                Some(_) | None => return self.checked(line).map(Some),
            }
        }
        self.ended = true;
        Ok(None)
    }

    /// Refuses a record that begins in `line` and whose quotation marks are not those of CSV.
    fn checked(&mut self, line: usize) -> Result<usize> {
        let Marks { behind, escaped, rows } = self.marks;
        if let Some(line) = behind {
            return Err(self.place.row(line).error(format!(
                "text stands behind the quotation mark that closes a cell; {}",
                remedy(escaped)
            )));
        }
        let Some((lines, cells)) = rows.filter(|(_, cells)| *cells == self.names.len()) else {
            return Ok(line);
        };
        let found = format!(
            "quotation marks join {lines} lines into one record, and without them each line would be a row of {cells} cells"
        );
        // Commas are common in texts; tabs are not, and programs that write them often know no quotation marks.
        if self.is_tabs {
            return Err(self.place.row(line).error(format!(
                "{found}; if these are rows: {}; if it is one record, convert the file to JSON Lines",
                remedy(escaped)
            )));
        }
        if !self.warned {
            self.warned = true;
            log::warn!(
                "{}: {found}; if these are rows: {}; later records of this kind are not named",
                self.place.row(line),
                remedy(escaped)
            );
        }
        Ok(line)
    }

    /// The cells of the record as text.
    fn cells(&self, line: usize) -> Result<Vec<&str>> {
        let last = self.record.len().saturating_sub(1);
        let mut cells = Vec::with_capacity(self.record.len());
        for (i, cell) in self.record.iter().enumerate() {
            let text = std::str::from_utf8(cell).map_err(|_| {
                let name = self.names.get(i).map_or_else(|| format!("{}", i + 1), |name| format!("`{name}`"));
                self.place.row(line).error(format!(
                    "column {name} is not valid UTF-8; save the file as UTF-8 (Excel: \"CSV UTF-8\")"
                ))
            })?;
            // The carriage return of `\r\n`.
            cells.push(if i == last { text.strip_suffix('\r').unwrap_or(text) } else { text });
        }
        Ok(cells)
    }

    fn header(&self, line: usize) -> Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        for (i, name) in self.cells(line)?.into_iter().map(str::trim).enumerate() {
            if name.contains(['\r', '\n']) {
                return Err(self.place.row(line).error(
                    "a column's name holds a line break; the first row must name the columns, and lines must end with \
                     a line feed",
                ));
            }
            // The index that pandas writes has no name; `datasets` calls it so.
            let name = if name.is_empty() { format!("Unnamed: {i}") } else { name.to_owned() };
            if names.contains(&name) {
                return Err(self
                    .place
                    .row(line)
                    .error(format!("the header row names `{name}` twice; rename one of them")));
            }
            names.push(name);
        }
        Ok(names)
    }

    fn row(&self, line: usize) -> Result<Row> {
        let cells = self.cells(line)?;
        if cells.len() != self.names.len() {
            let remedy = if self.marks.escaped { remedy(true) } else { QUOTE };
            return Err(self.place.row(line).error(format!(
                "the row has {} cell(s), but the header row names {} column(s); {remedy}",
                cells.len(),
                self.names.len()
            )));
        }
        let value = |cell: &str| if cell.is_empty() { Json::Null } else { Json::String(cell.to_owned()) };
        let fields: Map<String, Json> =
            self.names.iter().cloned().zip(cells.into_iter().map(value)).collect();
        Ok(Row { origin: self.place.row(line), value: Json::Object(fields) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;
    use serde_json::json;

    fn read(format: Format, text: &'static [u8]) -> Vec<Result<Row>> {
        match format.parse(text, "t.csv".into()) {
            Ok(rows) => rows.collect(),
            Err(error) => vec![Err(error)],
        }
    }

    fn values(format: Format, text: &'static str) -> Vec<(usize, Json)> {
        read(format, text.as_bytes())
            .into_iter()
            .map(|row| row.map(|row| (row.origin.line, row.value)).unwrap())
            .collect()
    }

    #[track_caller]
    fn refused(text: &'static [u8], expected: &str) {
        let errors: Vec<String> =
            read(Format::Csv, text).into_iter().filter_map(|row| row.err().map(|e| e.to_string())).collect();
        assert!(errors.len() == 1 && errors[0].contains(expected), "{expected}: {errors:?}");
    }

    #[test]
    fn cells_are_strings_and_lines_are_physical_ones() {
        let text = "a,b,c\n1,\"x\ny\",\n\n\n\"NaN\",\"[1, \"\"2\"\"]\",\"\"\n2,3,\"4\n\n\"\nx,y,z";
        let expected = vec![
            (2, json!({"a": "1", "b": "x\ny", "c": null})),
            (6, json!({"a": "NaN", "b": "[1, \"2\"]", "c": null})),
            (7, json!({"a": "2", "b": "3", "c": "4\n\n"})),
            (10, json!({"a": "x", "b": "y", "c": "z"})),
        ];
        assert_eq!(values(Format::Csv, text), expected);
        let windows: &'static str = text.replace('\n', "\r\n").leak();
        let found = values(Format::Csv, windows);
        assert_eq!(found.iter().map(|row| row.0).collect::<Vec<_>>(), [2, 6, 7, 10]);
        assert_eq!((&found[0].1["b"], &found[3].1["c"]), (&json!("x\r\ny"), &json!("z")));
    }

    #[test]
    fn tabs_a_byte_order_mark_and_the_index_of_pandas() {
        assert_eq!(values(Format::Tsv, "a\tb\n1, 2\t\"3\t\"\n"), [(2, json!({"a": "1, 2", "b": "3\t"}))]);
        assert_eq!(values(Format::Csv, "\u{feff}a\tb\n1,2\t3\n"), [(2, json!({"a": "1,2", "b": "3"}))]);
        assert_eq!(values(Format::Csv, ",a\n0,x\n"), [(2, json!({"Unnamed: 0": "0", "a": "x"}))]);
        assert_eq!(values(Format::Csv, "a\n5\" disk\n"), [(2, json!({"a": "5\" disk"}))]);
        assert!(values(Format::Csv, "a,b\n").is_empty());
    }

    #[test]
    fn malformed_files_are_refused_with_their_line() {
        refused(b"", "t.csv: the file is empty");
        refused(b"\n\n", "t.csv: the file has no header row");
        refused(b"a,b\n1,2\n3\n4,5\n", "t.csv:3: the row has 1 cell(s), but the header row names 2");
        refused(b"a,b\n\"x\ny\",2,3\n", "t.csv:2: the row has 3 cell(s)");
        refused(b"a,b\n1,2\n3,\"4\n5,6\n", "t.csv:3: a quotation mark");
        refused(b"a,\"b\n1,2\n", "t.csv:1: a quotation mark");
        refused(b"a,b,a\n1,2,3\n", "t.csv:1: the header row names `a` twice");
        refused(b"a;b\n1;2\n", "t.csv:1: the header row is separated by semicolons");
        refused(b"a,b\rc,d\r", "t.csv:1: a column's name holds a line break");
        refused(b"a,b\n1,caf\xE9\n", "t.csv:2: column `b` is not valid UTF-8");
    }

    #[test]
    fn quotation_marks_of_another_kind_are_refused_and_the_rest_is_read() {
        refused(
            b"a,b\n\"Yes\" is good,x\n1,2\n",
            "t.csv:2: text stands behind the quotation mark that closes",
        );
        refused(b"a,b\n\"c\nd\" e,x\n1,2\n", "t.csv:3: text stands behind");
        refused(b"a,\"b\" c\n1,2\n", "t.csv:1: text stands behind");
        refused(b"a,b\n\"Say \\\"hi\\\"\",x\n", "a backslash before a quotation mark does not escape it");
        refused(
            b"a,b\n\"end \\\",y\",x\n",
            "the row has 3 cell(s), but the header row names 2 column(s); a backslash",
        );
        let found = read(Format::Csv, b"a,b\n\"Yes\" is,x\n1,\"2\"\n");
        assert_eq!(found.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true]);
        assert_eq!(
            values(Format::Csv, "a,b\n\"c:\\\",\"\"\"d\"\"\"\n")[0].1,
            json!({"a": "c:\\", "b": "\"d\""})
        );
    }

    #[test]
    fn rows_that_quotation_marks_join_are_refused_between_tabs() {
        let text = b"a\tb\tc\nq1\t\"foo a\tb1\nq2\tbar\"\tb2\nq3\tx\ty\n";
        let mut found = read(Format::Tsv, text);
        assert_eq!(found.remove(1).unwrap().value, json!({"a": "q3", "b": "x", "c": "y"}));
        let message = found.remove(0).unwrap_err().to_string();
        assert!(message.contains(":2: quotation marks join 2 lines into one record"), "{message}");
        assert_eq!(values(Format::Csv, "a,b\nc,\"x\ny, z\"\n"), [(2, json!({"a": "c", "b": "x\ny, z"}))]);
        let code = values(Format::Tsv, "a\tb\nq\t\"if x:\n\treturn y\"\n");
        assert_eq!(code, [(2, json!({"a": "q", "b": "if x:\n\treturn y"}))]);
    }

    #[test]
    fn a_record_that_is_too_long_is_refused() {
        let mut bounded = Bounded {
            inner: Cursor::new(Vec::new()).chain(Box::new(io::Cursor::new(b"12345")) as Bytes),
            left: 4,
        };
        assert!(io::read_to_string(&mut bounded).unwrap_err().to_string().contains("not closed?"));
    }
}
