//! A JSON array of objects, read element by element. Rows count from 1.

use std::io::{self, BufRead};

use super::lines::Bytes;
use super::place::Place;
use super::row::{MOST_BYTES, Row, Rows, ends_the_file, parse_json};
use crate::error::{Error, Result};

const NO_END: &str = "the array has no end: `]` is missing; is the file cut off?";

/// Returns the rows of the array that `reader` begins with; it begins in line `line`, counted from 1.
pub(super) fn rows(reader: Bytes, place: Place, line: usize) -> Rows {
    Box::new(Elements { reader, place, line, column: 0, row: 0, next: Next::Array, most: MOST_BYTES })
}

enum Next {
    Array,
    First,
    Comma,
    End,
}

struct Elements {
    reader: Bytes,
    place: Place,
    /// The 1-based line of the next byte.
    line: usize,
    /// The characters before the next byte in its line.
    column: usize,
    /// The number of rows returned.
    row: usize,
    next: Next,
    /// The longest element, in bytes.
    most: usize,
}

impl Iterator for Elements {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.read().transpose()?;
        if !matches!(row, Ok(_) | Err(Failure::Element(_))) {
            self.next = Next::End;
        }
        Some(row.map_err(|failure| match failure {
            Failure::Read(e) => Error::read(&self.place.path)(e),
            Failure::Element(error) => error,
            Failure::Array(error) => ends_the_file(error),
        }))
    }
}

enum Failure {
    Read(io::Error),
    /// Of one element; the next ones can be read.
    Element(Error),
    /// Of the array; nothing behind it can be read.
    Array(Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Read(e)
    }
}

impl Elements {
    fn read(&mut self) -> Result<Option<Row>, Failure> {
        if matches!(self.next, Next::End) {
            return Ok(None);
        }
        if matches!(self.next, Next::Array) {
            self.space()?;
            self.consume(1);
            self.next = Next::First;
        }
        match (self.space()?, &self.next) {
            (None, _) => return Err(self.wrong(NO_END)),
            (Some(b']'), _) => {
                self.consume(1);
                if self.space()?.is_some() {
                    return Err(self.wrong("text behind the end of the array; the file must hold one array"));
                }
                self.next = Next::End;
                return Ok(None);
            }
            (Some(b','), Next::Comma) => self.comma()?,
            (Some(_), Next::Comma) => return Err(self.wrong("`,` or `]` is missing behind an element")),
            (Some(_), _) => {}
        }
        self.next = Next::Comma;
        if self.space()? == Some(b',') {
            return Err(Failure::Element(
                self.error("an element is missing before this `,`; remove the comma"),
            ));
        }
        self.element().map(Some)
    }

    /// Consumes a comma, behind which there must be something.
    fn comma(&mut self) -> Result<(), Failure> {
        self.consume(1);
        match self.space()? {
            None => Err(self.wrong(NO_END)),
            Some(b']') => {
                let message = "a comma stands behind the last element; remove the `,` before this `]`";
                Err(Failure::Element(self.error(message)))
            }
            Some(_) => Ok(()),
        }
    }

    fn element(&mut self) -> Result<Row, Failure> {
        let (line, column) = (self.line, self.column);
        let mut text = Vec::new();
        let mut scan = Scan::default();
        loop {
            let found = self.reader.fill_buf()?;
            if found.is_empty() {
                break;
            }
            let end = found.iter().position(|byte| scan.ends_before(*byte));
            let taken = end.unwrap_or(found.len());
            text.extend_from_slice(&found[..taken]);
            self.consume(taken);
            if text.len() > self.most {
                return Err(Failure::Array(
                    self.place.row(line).error(format!(
                        "the element that begins here is longer than {} MiB",
                        self.most >> 20
                    )),
                ));
            }
            if end.is_some() {
                break;
            }
        }
        self.row += 1;
        match parse_json(text.trim_ascii_end()) {
            Ok(value) => Ok(Row { origin: self.place.row(self.row), value }),
            Err(broken) => {
                let origin = self.place.row(line + broken.line - 1);
                Err(Failure::Element(origin.error(broken.message(column))))
            }
        }
    }

    fn wrong(&self, message: &str) -> Failure {
        Failure::Array(self.error(message))
    }

    /// The error about the next byte.
    fn error(&self, message: &str) -> Error {
        self.place.row(self.line).error(format!("not valid JSON at column {}: {message}", self.column + 1))
    }

    /// Skips white space and returns the byte behind it.
    fn space(&mut self) -> io::Result<Option<u8>> {
        loop {
            let found = self.reader.fill_buf()?;
            let space = found.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let (next, end) = (found.get(space).copied(), found.is_empty());
            self.consume(space);
            if next.is_some() || end {
                return Ok(next);
            }
        }
    }

    /// Consumes `count` bytes of the buffer.
    fn consume(&mut self, count: usize) {
        let Ok(found) = self.reader.fill_buf() else { return };
        let found = &found[..count.min(found.len())];
        let last = found.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let feeds = found.iter().filter(|byte| **byte == b'\n').count();
        let characters = last.iter().filter(|byte| **byte & 0xC0 != 0x80).count();
        self.column = if feeds > 0 { characters } else { self.column + characters };
        self.line += feeds;
        self.reader.consume(count);
    }
}

/// Where an element ends: at a comma or bracket that is neither in a string nor in a bracket of the element.
#[derive(Default)]
struct Scan {
    depth: usize,
    string: bool,
    escaped: bool,
}

impl Scan {
    fn ends_before(&mut self, byte: u8) -> bool {
        if self.string {
            let escape = byte == b'\\' && !self.escaped;
            self.string = self.escaped || byte != b'"';
            self.escaped = escape;
            return false;
        }
        match byte {
            b',' | b']' | b'}' if self.depth == 0 => return byte != b'}',
            b'"' => self.string = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth -= 1,
            _ => {}
        }
        false
    }
}

/// The rows of an array that is in memory.
pub(super) fn of(values: Vec<serde_json::Value>, place: Place) -> Rows {
    Box::new(values.into_iter().zip(1..).map(move |(value, row)| Ok(Row { origin: place.row(row), value })))
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;

    fn read(text: &'static str) -> Result<Vec<Row>> {
        Format::Json.parse(text, "t.json".into())?.collect()
    }

    fn refused(text: &'static str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn rows_count_from_one() {
        let rows = read("[\n {\"a\": 1},\n\n {\"a\": \"]},\\\"[\"}\n]\n\n").unwrap();
        assert_eq!(rows.iter().map(|row| row.origin.line).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(rows[1].value["a"], "]},\"[");
        assert!(read("[]").unwrap().is_empty());
        assert_eq!(read("\u{feff} [{\"a\": NaN}]").unwrap()[0].value["a"]["NaN"], "a");
    }

    #[test]
    fn a_fault_is_an_error_with_its_place() {
        for (text, expected) in [
            ("[{\"a\": 1},\n {\"a\" 2}]", "t.json:2: not valid JSON at column 7: expected `:`"),
            ("[{\"ä\": 1}, {\"a\" 2}]", "t.json:1: not valid JSON at column 17: expected `:`"),
            ("[{\"a\": 1}\n", "t.json:2: not valid JSON at column 1: the array has no end"),
            ("[{\"a\": 1}] x", "t.json:1: not valid JSON at column 12: text behind the end"),
            (
                "[{\"a\": 1},]",
                "t.json:1: not valid JSON at column 11: a comma stands behind the last element; remove the `,`",
            ),
            (
                "[{\"a\": 1},\n ]",
                "t.json:2: not valid JSON at column 2: a comma stands behind the last element",
            ),
            ("[{\"a\": 1}, ", "t.json:1: not valid JSON at column 12: the array has no end"),
            (
                "[{\"a\": 1},, {}]",
                "t.json:1: not valid JSON at column 11: an element is missing before this `,`",
            ),
            ("[, {\"a\": 1}]", "t.json:1: not valid JSON at column 2: an element is missing before this `,`"),
            ("[{\"a\": 1, \"a\": 2}]", "t.json:1: an ambiguous object at column 13: the key \"a\""),
            ("[{\"a\": 1} {\"a\": 2}]", "t.json:1: not valid JSON at column 11: trailing characters"),
            ("[{\"a\": [1}, 2]", "t.json:1: not valid JSON at column 10: expected `,` or `]`"),
            ("[}", "t.json:1: not valid JSON at column 2: expected value"),
            ("[{\"a\": \"\\ud83d\"}]", "t.json:1: not a text at column 9"),
        ] {
            assert!(refused(text).starts_with(expected), "{text}: {}", refused(text));
        }
    }

    #[test]
    fn a_broken_element_does_not_hide_the_next() {
        let rows = Format::Json.parse("[{\"a\": tru}, {\"a\": 1}]", "t.json".into()).unwrap();
        assert_eq!(rows.map(|row| row.is_ok()).collect::<Vec<_>>(), [false, true]);
        let rows = Format::Json.parse("[, {\"a\": 1},, {\"a\": 1},]", "t.json".into()).unwrap();
        assert_eq!(rows.map(|row| row.is_ok()).collect::<Vec<_>>(), [false, true, false, true, false]);
    }

    #[test]
    fn an_element_that_is_too_long_is_refused() {
        let mut elements = Elements {
            reader: Box::new(std::io::Cursor::new("[\n1, 12345678901]")),
            place: Place::new("t".into(), "t".into()),
            line: 1,
            column: 0,
            row: 0,
            next: Next::Array,
            most: 10,
        };
        assert!(elements.next().unwrap().is_ok());
        assert!(
            elements
                .next()
                .unwrap()
                .unwrap_err()
                .to_string()
                .starts_with("t:2: the element that begins here")
        );
        assert!(elements.next().is_none());
    }
}
