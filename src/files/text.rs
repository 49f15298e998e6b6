//! Text files that people write.

use std::io;
use std::path::Path;

use crate::error::{Error, Result};

/// The byte-order mark that some editors put before a text. It is not visible and not a part of the text.
const MARK: char = '\u{feff}';

/// Reads a text file without the byte-order mark that it may begin with.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, or is not UTF-8: the error names the line.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::read(path))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let whole = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..whole].iter().filter(|byte| **byte == b'\n').count();
        let message = format!("line {line} is not UTF-8 text; save the file as UTF-8");
        Error::read(path)(io::Error::new(io::ErrorKind::InvalidData, message))
    })?;
    Ok(without_mark(text))
}

/// Returns a text without the byte-order mark that it may begin with.
#[must_use]
pub fn without_mark(text: String) -> String {
    match text.strip_prefix(MARK) {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_no_part_of_a_text_and_other_bytes_have_their_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("text");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_text(&path)
        };
        assert_eq!(read(b"\xEF\xBB\xBFone\n").unwrap(), "one\n");
        assert_eq!(read("one \u{feff}two".as_bytes()).unwrap(), "one \u{feff}two");
        let message = read(b"one\ntwo \xff\n").unwrap_err().to_string();
        assert!(message.contains("text: line 2 is not UTF-8 text; save the file as UTF-8"), "{message}");
        assert_eq!(read_text(&directory.path().join("none")).unwrap_err().exit_code(), 2);
    }
}
