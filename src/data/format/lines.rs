//! Lines of bounded length.

use std::io::{self, BufRead, Read};

/// A source of bytes, whatever is behind it.
pub(super) type Bytes = Box<dyn BufRead + Send>;

/// What a read of a line gave.
pub(super) enum Line {
    /// A line with its line feed, if it has one.
    Whole,
    /// The beginning of a line that is too long.
    TooLong,
    /// Nothing: the input is at its end.
    End,
}

/// Appends the next line of `reader` to `buffer`, of at most `most` bytes.
///
/// # Errors
/// Those of the reader.
pub(super) fn read_line(reader: &mut impl BufRead, buffer: &mut Vec<u8>, most: usize) -> io::Result<Line> {
    let before = buffer.len();
    reader.by_ref().take(most as u64 + 1).read_until(b'\n', buffer)?;
    let read = &buffer[before..];
    Ok(match read.last() {
        None => Line::End,
        Some(b'\n') => Line::Whole,
        Some(_) if read.len() > most => Line::TooLong,
        Some(_) => Line::Whole,
    })
}

/// Skips white space; returns the first other byte, without consuming it, and the number of line feeds skipped.
///
/// # Errors
/// Those of the reader.
pub(super) fn skip_space(reader: &mut impl BufRead) -> io::Result<(Option<u8>, usize)> {
    let mut feeds = 0;
    loop {
        let found = reader.fill_buf()?;
        if found.is_empty() {
            return Ok((None, feeds));
        }
        let space = found.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(found.len());
        feeds += found[..space].iter().filter(|byte| **byte == b'\n').count();
        let next = found.get(space).copied();
        reader.consume(space);
        if next.is_some() {
            return Ok((next, feeds));
        }
    }
}
