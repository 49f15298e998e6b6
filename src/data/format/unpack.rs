//! gzip and zstd around a text, decoded as it is read: what is inside is never held as a whole.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom};

use flate2::bufread::MultiGzDecoder;

use super::kind::{HEAD, Kind};
use super::lines::Bytes;
use super::place::Place;
use crate::error::{Error, Result};

/// Size of read buffers, in bytes.
pub(super) const BUFFER: usize = 64 << 10;
/// log2 of the largest window of a zstd frame: 128 MiB, as `zstd -d` takes without `--long`.
const ZSTD_WINDOW: u32 = 27;
/// Compression inside compression that is still unpacked.
const LAYERS: usize = 2;

/// A text, what it is and its first bytes (without a byte-order mark).
pub(super) struct Unpacked {
    pub(super) kind: Kind,
    pub(super) head: Vec<u8>,
    pub(super) reader: Bytes,
}

/// Unpacks `reader` as often as its first bytes say that it is compressed.
///
/// # Errors
/// [`Error::Io`] if it cannot be read.
pub(super) fn unpack(mut reader: Bytes, place: &Place) -> Result<Unpacked> {
    for _ in 0..LAYERS {
        let head = take(&mut reader).map_err(Error::read(&place.path))?;
        let kind = Kind::of(&head);
        let whole = chained(head, reader);
        reader = match kind {
            Kind::Gzip => {
                Box::new(BufReader::with_capacity(BUFFER, Named("gzip", MultiGzDecoder::new(whole))))
            }
            Kind::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(whole).map_err(Error::read(&place.path))?;
                decoder.window_log_max(ZSTD_WINDOW).map_err(Error::read(&place.path))?;
                Box::new(BufReader::with_capacity(BUFFER, Named("zstd", decoder)))
            }
            Kind::Parquet | Kind::Text | Kind::Foreign(..) => {
                reader = whole;
                break;
            }
        };
        note(place, kind);
    }
    let mut head = take(&mut reader).map_err(Error::read(&place.path))?;
    let kind = Kind::of(&head);
    if head.starts_with(b"\xEF\xBB\xBF") {
        head.drain(..3);
    }
    Ok(Unpacked { kind, head: head.clone(), reader: chained(head, reader) })
}

/// Says that a file is compressed although its name does not.
fn note(place: &Place, kind: Kind) {
    let name = place.name.to_ascii_lowercase();
    if ![".gz", ".gzip", ".zst", ".zstd"].iter().any(|suffix| name.ends_with(suffix)) {
        let what = if kind == Kind::Gzip { "gzip" } else { "zstd" };
        log::info!("{}: the file is compressed with {what} and is read as such", place.name);
    }
}

/// The first bytes of `reader`, which are consumed.
fn take(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    reader.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// The first bytes of `file`.
///
/// # Errors
/// Those of the file.
pub(super) fn head(mut file: File) -> io::Result<(Vec<u8>, File)> {
    Ok((take(&mut file)?, file))
}

/// Goes back to the beginning of `file`, if it can.
pub(super) fn rewind(file: &mut File) -> bool {
    file.seek(SeekFrom::Start(0)).is_ok()
}

/// `head` and what follows it.
pub(super) fn chained(head: Vec<u8>, rest: impl BufRead + Send + 'static) -> Bytes {
    Box::new(Cursor::new(head).chain(rest))
}

/// A decoder whose errors name it.
struct Named<R>(&'static str, R);

impl<R: Read> Read for Named<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.read(buffer).map_err(|e| {
            let Self(what, _) = self;
            io::Error::new(e.kind(), format!("the {what} file is damaged or cut off: {e}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::super::{Format, Row, Rows};
    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn read(format: Format, bytes: Vec<u8>) -> Result<Vec<Row>> {
        let rows: Result<Rows> = format.parse(bytes, "t".into());
        rows?.collect()
    }

    #[test]
    fn compressed_texts_are_read_under_any_name() {
        let zstd = |text: &[u8]| zstd::encode_all(text, 1).unwrap();
        let lines = b"{\"a\": \"1\"}\n{\"a\": \"2\"}\n";
        let members = [gzip(&lines[..11]), gzip(&lines[11..])].concat();
        let frames = [zstd(&lines[..11]), zstd(&lines[11..])].concat();
        for bytes in [gzip(lines), members, zstd(lines), frames, gzip(&zstd(lines))] {
            assert_eq!(read(Format::Jsonl, bytes).unwrap()[1].value["a"], "2");
        }
        assert_eq!(read(Format::Json, gzip(b"\xEF\xBB\xBF[{\"a\": \"1\"}]")).unwrap()[0].value["a"], "1");
        assert_eq!(read(Format::Csv, zstd(b"\xEF\xBB\xBFa,b\n1,2\n")).unwrap()[0].value["a"], "1");
        assert_eq!(read(Format::Csv, lines.to_vec()).unwrap()[0].value["a"], "1");
    }

    #[test]
    fn what_is_damaged_or_foreign_is_named() {
        let mut cut = gzip(b"{\"a\": 1}\n");
        cut.truncate(cut.len() - 6);
        let message = read(Format::Jsonl, cut).unwrap_err().to_string();
        assert!(message.contains("the gzip file is damaged or cut off"), "{message}");
        let mut broken = zstd::encode_all(&b"{\"a\": 1}\n"[..], 1).unwrap();
        broken.truncate(broken.len() - 3);
        let message = read(Format::Jsonl, broken).unwrap_err().to_string();
        assert!(message.contains("the zstd file is damaged or cut off"), "{message}");
        for (bytes, what) in [
            (gzip(b"PK\x03\x04"), "t: the file is a zip archive"),
            (b"PAR1".to_vec(), "t: the Parquet file is cut off"),
            (gzip(b"PAR1"), "t: a Parquet file is read from its end"),
            (gzip(&gzip(&gzip(b"{}"))), "t: the file is compressed three times"),
            (b"\xFF\xFE{\0".to_vec(), "t: the file is UTF-16 text"),
        ] {
            let message = read(Format::Jsonl, bytes).unwrap_err().to_string();
            assert!(message.starts_with(what), "{message}");
        }
    }
}
