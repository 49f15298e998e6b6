//! JSON Lines: one object per line, read line by line. Blank lines and a byte-order mark are skipped.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::example::Origin;
use super::row::{Row, Rows, parse_json, without_bom};
use crate::error::{Error, Result};

/// Returns the rows of `reader`.
pub fn rows(reader: impl BufRead + Send + 'static, path: &Path, name: Arc<str>) -> Rows {
    Box::new(Lines { reader, path: path.to_path_buf(), name, line: 0, failed: false })
}

struct Lines<R> {
    reader: R,
    path: PathBuf,
    name: Arc<str>,
    /// The 1-based number of the last line read.
    line: usize,
    /// Set after a read error: a reader that has failed once may fail forever.
    failed: bool,
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut buffer = Vec::new();
        while !self.failed {
            buffer.clear();
            match self.reader.read_until(b'\n', &mut buffer) {
                Ok(0) => return None,
                Ok(_) => self.line += 1,
                Err(e) => {
                    self.failed = true;
                    return Some(Err(Error::read(&self.path)(e)));
                }
            }
            let text = if self.line == 1 { without_bom(&buffer) } else { &buffer }.trim_ascii_end();
            if !text.trim_ascii_start().is_empty() {
                let origin = Origin::new(self.name.clone(), self.line);
                return Some(match parse_json(text) {
                    Ok(value) => Ok(Row { origin, value }),
                    Err((_, message)) => Err(origin.error(format!(
                        "{message}; every line must hold one whole JSON object (a file that is one array: name it .json)"
                    ))),
                });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;

    fn read(text: &'static [u8]) -> Vec<Result<Row>> {
        Format::Jsonl.parse(text, "t.jsonl".into()).unwrap().collect()
    }

    #[test]
    fn blank_lines_and_bom_keep_line_numbers() {
        let rows = read(b"\xEF\xBB\xBF{\"a\":1}\r\n\n   \n{\"a\":2}");
        let lines: Vec<_> = rows.iter().map(|row| row.as_ref().unwrap().origin.line).collect();
        assert_eq!(lines, [1, 4]);
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
    fn invalid_utf8_names_line_and_column() {
        let rows = read(b"{\"a\": \"\xC3\xA4\xFF\"}");
        let message = rows[0].as_ref().unwrap_err().to_string();
        assert!(message.starts_with("t.jsonl:1: not valid UTF-8 at column 9"), "{message}");
    }

    #[test]
    fn nothing_in_nothing_out() {
        assert!(read(b"").is_empty());
        assert!(read(b"\n\n").is_empty());
    }
}
