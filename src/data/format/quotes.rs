//! The quotation marks of a CSV file, watched beside its parser, which takes every text.
//!
//! A cell that begins with a quotation mark ends at the next one that is not written twice. Files that mean something else
//! by their marks are read without an error, and as other texts than they hold; what betrays them is found here.

use std::collections::VecDeque;

/// What the quotation marks of a record show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// The line in which text stands behind a mark that closes a cell.
    pub(super) behind: Option<usize>,
    /// Whether a mark stands behind a backslash.
    pub(super) escaped: bool,
    /// The number of lines of the record and their cells, if each would be a row of so many without the marks.
    pub(super) rows: Option<(usize, usize)>,
}

/// Where a byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    /// At the beginning of a record.
    Record,
    /// At the beginning of another cell.
    Cell,
    /// In a cell without quotation marks around it, or behind them.
    Plain,
    /// Between quotation marks.
    Quoted,
    /// Behind a mark that closes a cell, or is the first of two.
    Mark,
    /// Behind such a mark and a carriage return.
    Return,
}

impl Within {
    /// Where the next byte stands, and whether `byte` is text behind a closing mark.
    fn behind(self, byte: u8, delimiter: u8) -> (Self, bool) {
        match (self, byte) {
            (Self::Quoted, b'"') => (Self::Mark, false),
            (Self::Quoted, _) | (Self::Mark | Self::Record | Self::Cell, b'"') => (Self::Quoted, false),
            (_, b'\n') => (Self::Record, false),
            (Self::Mark, b'\r') => (Self::Return, false),
            (_, other) if other == delimiter => (Self::Cell, self == Self::Return),
            (_, _) => (Self::Plain, matches!(self, Self::Mark | Self::Return)),
        }
    }
}

/// Reads the bytes that the parser reads, ahead of its records.
pub(super) struct Scanner {
    delimiter: u8,
    within: Within,
    /// The number of bytes read.
    bytes: u64,
    /// The 1-based line of the next byte.
    line: usize,
    last: u8,
    /// The record that is not at its end.
    open: Marks,
    /// Its lines that are.
    lines: usize,
    /// The cells of the first of them, if marks mean nothing.
    first: usize,
    /// Whether the others have as many.
    alike: bool,
    /// Whether one of them has nothing in its first cell.
    hollow: bool,
    /// The cells of this line.
    cells: usize,
    /// Records of which something is to be said, with the number of bytes up to their end.
    found: VecDeque<(u64, Marks)>,
}

impl Scanner {
    pub(super) fn new(delimiter: u8) -> Self {
        Self {
            delimiter,
            within: Within::Record,
            bytes: 0,
            line: 1,
            last: b'\n',
            open: Marks::default(),
            lines: 0,
            first: 0,
            alike: true,
            hollow: false,
            cells: 1,
            found: VecDeque::new(),
        }
    }

    /// Reads the next bytes of the file.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.step(*byte);
        }
    }

    fn step(&mut self, byte: u8) {
        let before = self.within;
        let (within, is_behind) = before.behind(byte, self.delimiter);
        self.within = within;
        self.bytes += 1;
        self.cells += usize::from(byte == self.delimiter);
        self.hollow |= byte == self.delimiter && self.last == b'\n';
        self.open.escaped |= byte == b'"' && self.last == b'\\';
        self.last = byte;
        if is_behind && self.open.behind.is_none() {
            self.open.behind = Some(self.line);
        }
        if byte == b'\n' {
            self.end_line(before == Within::Record);
        }
    }

    fn end_line(&mut self, is_blank: bool) {
        self.line += 1;
        if !is_blank {
            self.alike = self.lines == 0 || self.alike && self.cells == self.first;
            self.first = if self.lines == 0 { self.cells } else { self.first };
            self.lines += 1;
        }
        self.cells = 1;
        if self.within != Within::Record {
            return;
        }
        // In a file of one column every line is a row.
        if self.lines > 1 && self.alike && !self.hollow && self.first > 1 {
            self.open.rows = Some((self.lines, self.first));
        }
        let record = std::mem::take(&mut self.open);
        if record != Marks::default() {
            self.found.push_back((self.bytes, record));
        }
        self.lines = 0;
        self.hollow = false;
    }

    /// Returns what is known of the record that ends at the byte `end`; what is known of those before it is forgotten.
    pub(super) fn record(&mut self, end: u64) -> Marks {
        let mut marks = Marks::default();
        while self.found.front().is_some_and(|(ends, _)| *ends <= end) {
            if let Some((_, found)) = self.found.pop_front() {
                marks = found;
            }
        }
        marks
    }

    /// Whether a mark stands behind a backslash in the record that is not at its end.
    pub(super) fn is_escaped(&self) -> bool {
        self.open.escaped
    }
}

/// What to do about marks that are not those of CSV.
pub(super) fn remedy(escaped: bool) -> &'static str {
    if escaped {
        "a backslash before a quotation mark does not escape it: inside a quoted cell, write the mark twice (Spark: \
         option(\"escape\", \"\\\"\"); pandas: read_csv(..., escapechar=\"\\\\\"), then to_csv(..., index=False))"
    } else {
        "inside a quoted cell, write a quotation mark twice (if the marks of the file mean nothing, pandas: read_csv(..., \
         quoting=3), then to_csv(..., index=False))"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The marks of the only record of `text` behind which something is to be said.
    fn marks(delimiter: u8, text: &str) -> Marks {
        let mut scanner = Scanner::new(delimiter);
        scanner.read(text.as_bytes());
        assert!(scanner.found.len() < 2, "{text:?}");
        scanner.record(u64::MAX)
    }

    #[test]
    fn text_behind_a_closing_mark_is_found_in_its_line() {
        for text in ["\"a\" b,c\n", "x,\"a\"\"\"b\n", "\"a\" ,b\n", "\"a\"\rb\n", "\"a\"\r,b\n"] {
            assert_eq!(marks(b',', text).behind, Some(1), "{text:?}");
        }
        assert_eq!(marks(b',', "a,b\n\n\"c\nd\"e,f\n").behind, Some(4));
        for text in
            ["\"a \"\"b\"\" c\",\"\"\r\n", "5\" disk,a \"b\" c\n", "\"\"\"a\"\"\",\"b\"\n", "\"a\n\"\n"]
        {
            assert_eq!(marks(b',', text), Marks::default(), "{text:?}");
        }
        let spark = marks(b',', "\"say \\\"hi\\\"\",b\n");
        assert_eq!((spark.behind, spark.escaped), (Some(1), true));
        assert!(!marks(b',', "\"a\" b\n").escaped);
    }

    #[test]
    fn lines_that_would_be_rows_are_found() {
        let rows = |text: &str| marks(b'\t', text).rows;
        assert_eq!(rows("q\t\"foo a\tb\nr\tbar\"\tc\n"), Some((2, 3)));
        assert_eq!(rows("q\ta\t\"foo\nr\tb\tc\ns\tx\ty\"\n"), Some((3, 3)));
        // The first cell of a row is not empty, and code is indented.
        assert_eq!(rows("q\t\"if x:\n\treturn y\"\n"), None);
        for text in ["q\t\"a\n\nb\tc\"\td\n", "\"a\nb\"\n", "q\ta\tb\nr\tc\td\n", "q\t\"a\nb\"\n\nr\t\"c\"\n"]
        {
            assert_eq!(rows(text), None, "{text:?}");
        }
    }

    #[test]
    fn each_record_has_its_own_marks() {
        let mut scanner = Scanner::new(b',');
        scanner.read(b"a,b\n\"c\" d,e\nf,g\n\"h\" i,\\\"");
        assert_eq!(scanner.record(4), Marks::default());
        assert_eq!(scanner.record(12).behind, Some(2));
        assert_eq!(scanner.record(16), Marks::default());
        assert!(scanner.is_escaped());
    }
}
