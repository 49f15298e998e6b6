//! JSON Lines: one object per line, read line by line. Blank lines are skipped.

use super::super::example::Origin;
use super::lines::{Bytes, Line, read_line};
use super::place::Place;
use super::row::{MOST_BYTES, Row, Rows, parse_json};
use crate::error::{Error, Result};

/// Returns the rows of `reader`, before which `line` lines have been read.
pub(super) fn rows(reader: Bytes, place: Place, line: usize) -> Rows {
    Box::new(Lines { reader, place, line, failed: false, most: MOST_BYTES })
}

struct Lines {
    reader: Bytes,
    place: Place,
    /// The 1-based number of the last line read.
    line: usize,
    /// Set after a read error: a reader that has failed once may fail forever.
    failed: bool,
    /// The longest line, in bytes.
    most: usize,
}

impl Iterator for Lines {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut buffer = Vec::new();
        while !self.failed {
            buffer.clear();
            match read_line(&mut self.reader, &mut buffer, self.most) {
                Ok(Line::End) => return None,
                Ok(Line::Whole) => self.line += 1,
                Ok(Line::TooLong) => {
                    self.failed = true;
                    return Some(Err(self.place.row(self.line + 1).error(too_long(self.most))));
                }
                Err(e) => {
                    self.failed = true;
                    return Some(Err(Error::read(&self.place.path)(e)));
                }
            }
            let text = buffer.trim_ascii_end();
            if !text.trim_ascii_start().is_empty() {
                return Some(self.parse(text));
            }
        }
        None
    }
}

impl Lines {
    fn parse(&self, text: &[u8]) -> Result<Row> {
        let origin: Origin = self.place.row(self.line);
        match parse_json(text) {
            Ok(value) => Ok(Row { origin, value }),
            Err(broken) if broken.is_syntax() => Err(origin.error(format!(
                "{}; every line must hold one whole JSON object{}",
                broken.message(0),
                if self.line == 1 && looks_like_csv(text) { " (a CSV file: name it .csv)" } else { "" }
            ))),
            Err(broken) => Err(origin.error(broken.message(0))),
        }
    }
}

/// Whether a first line that is not JSON reads like the header of a CSV file.
fn looks_like_csv(text: &[u8]) -> bool {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_- ,\t\"".contains(byte);
    text.iter().all(word) && text.iter().any(|byte| b",\t".contains(byte))
}

/// What is wrong with a line of more than `most` bytes.
pub(super) fn too_long(most: usize) -> String {
    format!("the line is longer than {} MiB; is the file JSON Lines, with one record per line?", most >> 20)
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;

    fn read(text: &'static [u8]) -> Vec<Result<Row>> {
        Format::Jsonl.parse(text, "t.jsonl".into()).unwrap().collect()
    }

    fn message(text: &'static [u8], row: usize) -> String {
        read(text)[row].as_ref().unwrap_err().to_string()
    }

    #[test]
    fn blank_lines_and_bom_keep_line_numbers() {
        let rows = read(b"\xEF\xBB\xBF{\"a\":1}\r\n\n   \n{\"a\":2}");
        let lines: Vec<_> = rows.iter().map(|row| row.as_ref().unwrap().origin.line).collect();
        assert_eq!(lines, [1, 4]);
        let rows = read(b"\n \n{\"a\":1}\n\n{\"a\":2}");
        let lines: Vec<_> = rows.iter().map(|row| row.as_ref().unwrap().origin.line).collect();
        assert_eq!(lines, [3, 5]);
    }

    #[test]
    fn broken_json_names_line_and_column_and_the_rest_is_read() {
        let rows = read("{}\n{\"ä\": tru}\n{}".as_bytes());
        let message = rows[1].as_ref().unwrap_err().to_string();
        // Columns: { " ä " : space t r u } — the 10th character ends what could have been `true`.
        assert!(message.starts_with("t.jsonl:2: not valid JSON at column 10: expected ident"), "{message}");
        assert_eq!(rows.len(), 3);
        assert!(rows[2].is_ok());
    }

    #[test]
    fn a_first_line_that_is_cut_off_does_not_hide_the_others() {
        let rows = read(b"{\"a\": \n{\"a\": 1}\n{\"a\": 2}\n");
        assert_eq!(rows.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, true]);
        assert!(
            message(b"{\"a\": \n{\"a\": 1}\n", 0).starts_with("t.jsonl:1: not valid JSON at column 5: EOF")
        );
    }

    #[test]
    fn invalid_utf8_names_line_and_column() {
        let message = message(b"{\"a\": \"\xC3\xA4\xFF\"}", 0);
        assert!(message.starts_with("t.jsonl:1: not valid UTF-8 at column 9"), "{message}");
    }

    #[test]
    fn characters_that_are_not_visible_are_named() {
        for (text, part) in [
            (&b"{}\n\xEF\xBB\xBF{}"[..], "column 1: a byte-order mark (U+FEFF), which is not visible"),
            (b"{}\n\0\0{}", "column 1: a NUL byte"),
            (b"{}\n{\"a\": \"b\0\"}", "column 9: a NUL byte"),
            (b"{}\n{\"a\": 1}\0", "column 9: a NUL byte"),
            (b"{}\n{\xC2\xA0\"a\": 1}", "column 2: a no-break space (U+00A0)"),
        ] {
            let message = message(text, 1);
            assert!(
                message.starts_with("t.jsonl:2: not valid JSON at ") && message.contains(part),
                "{message}"
            );
        }
        assert!(read(b"{\"a\": \"\xEF\xBB\xBF\xC2\xA0\"}")[0].is_ok());
    }

    #[test]
    fn a_key_that_stands_twice_is_named_and_the_rest_is_read() {
        let rows = read(b"{}\n{\"a\": 1, \"b\": 2, \"a\": 3}\n{}");
        assert_eq!(rows.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
        let message = rows[1].as_ref().unwrap_err().to_string();
        assert_eq!(
            message,
            "t.jsonl:2: an ambiguous object at column 20: the key \"a\" stands twice; remove one of the two"
        );
    }

    #[test]
    fn csv_under_the_name_of_json_lines_is_named() {
        let message = message(b"prompt,chosen,rejected\na,b,c\n", 0);
        assert!(message.starts_with("t.jsonl:1: ") && message.contains("name it .csv"), "{message}");
    }

    #[test]
    fn nothing_in_nothing_out() {
        assert!(read(b"").is_empty());
        assert!(read(b"\n\n").is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_with_its_number() {
        let place = Place::new("t.jsonl".into(), "t.jsonl".into());
        let lines = |text: &'static str| Lines {
            reader: Box::new(std::io::Cursor::new(text)),
            place: place.clone(),
            line: 0,
            failed: false,
            most: 10,
        };
        let rows: Vec<_> = lines("{\"a\":1234}\n{\"a\": 12345}\n{}\n").collect();
        assert_eq!(rows.len(), 2, "reading stops there");
        assert!(rows[0].is_ok());
        assert!(rows[1].as_ref().unwrap_err().to_string().starts_with("t.jsonl:2: the line is longer than"));
        assert_eq!(lines("{\"a\": 123}").filter(Result::is_ok).count(), 1);
    }
}
