//! What the headers of a column's pages claim, checked before the library reads them: it allocates a page's size at once.

use std::io::Read;

use ::parquet::basic::Compression;
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use super::source::Source;
use super::thrift::{PageHeader, page_header};

/// The largest page, in bytes.
const MOST_BYTES: i64 = 256 << 20;
/// The most values of a page; pages of a mebibyte have far fewer.
const MOST_VALUES: i64 = 1 << 24;
/// The lengths of a page header that are tried: one with long statistics is longer.
const HEADERS: [u64; 2] = [4 << 10, 8 << 20];
/// log2 of the largest window of a zstd page: a page that is packed at once has its own size as its window.
const ZSTD_WINDOW: u32 = 28;
/// What an entry of a dictionary takes besides its text, in bytes.
const ENTRY: i64 = 32;

/// Checks the pages of `chunk` and returns how many bytes are in memory while it is read: the dictionary and the largest
/// page, packed and unpacked.
///
/// # Errors
/// What is wrong, as the end of a sentence.
pub(super) fn check(source: &Source, chunk: &ColumnChunkMetaData) -> Result<u64, String> {
    let ratio = ratio(chunk.compression())?;
    if chunk.file_path().is_some_and(|path| !path.is_empty()) {
        return Err("is kept in another file, which is not read".into());
    }
    let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
    let within = |number: i64| u64::try_from(number).ok().filter(|number| *number <= source.len());
    let (Some(start), Some(length)) = (within(start), within(chunk.compressed_size())) else {
        return Err(format!("lies outside of the file's {} bytes", source.len()));
    };
    if start + length > source.len() {
        return Err(format!("ends behind the file's {} bytes; is the file cut off?", source.len()));
    }
    let (mut at, end) = (start, start + length);
    let (mut dictionary, mut largest, mut values) = (0, 0, 0_i64);
    while at < end {
        let header = header(source, at, end - at)?;
        let body = at + header.length as u64;
        let size = checked(&header, end.saturating_sub(body))?;
        if !header.stored {
            unpacks(source, &header, body, ratio)?;
        }
        match header.kind {
            2 => dictionary = size + header.values * ENTRY,
            _ => largest = largest.max(size),
        }
        if matches!(header.kind, 0 | 3) {
            values = values.saturating_add(header.values);
        }
        at = body + header.packed.unsigned_abs();
    }
    if values != chunk.num_values() {
        return Err(format!("has pages of {values} values, but its header counts {}", chunk.num_values()));
    }
    Ok((dictionary + largest).unsigned_abs())
}

/// The header of the page at `at`, of whose column `left` bytes are left.
fn header(source: &Source, at: u64, left: u64) -> Result<PageHeader, String> {
    for most in HEADERS {
        let length = usize::try_from(left.min(most)).unwrap_or(usize::MAX);
        let bytes = source.get_bytes(at, length).map_err(|e| e.to_string())?;
        if let Some(header) = page_header(&bytes) {
            return Ok(header);
        }
        if left <= most {
            break;
        }
    }
    Err(format!("has no readable page at byte {at}"))
}

/// The bytes that a page takes, packed and unpacked.
fn checked(header: &PageHeader, left: u64) -> Result<i64, String> {
    let PageHeader { packed, unpacked, values, levels, .. } = *header;
    if packed < 0 || unpacked < 0 || values < 0 || packed.unsigned_abs() > left {
        return Err("has a page whose header does not fit its column; is the file damaged?".into());
    }
    if unpacked > MOST_BYTES || packed > MOST_BYTES {
        return Err(format!(
            "has a page that claims {} bytes; pages of at most {} MiB are read, so write the file with smaller pages",
            unpacked.max(packed),
            MOST_BYTES >> 20
        ));
    }
    if values > MOST_VALUES {
        return Err(format!(
            "has a page of {values} values; pages of at most {MOST_VALUES} are read, so write the file with smaller pages"
        ));
    }
    if !(0..=packed).contains(&levels) || levels > unpacked {
        return Err("has a page whose levels do not fit into it; is the file damaged?".into());
    }
    let entries = header.kind == 2 && values > unpacked;
    if entries {
        return Err(format!("has a dictionary that claims {values} entries in {unpacked} bytes"));
    }
    match header.encoding {
        // Plain, two numbers of dictionary indices, runs (of booleans), deltas of integers and of lengths, split bytes.
        0 | 2 | 3 | 5 | 6 | 8 | 9 => Ok(packed + unpacked),
        other => {
            let name = match other {
                4 => "BIT_PACKED".into(),
                7 => "DELTA_BYTE_ARRAY".into(),
                10 => "ALP".into(),
                _ => format!("number {other}"),
            };
            Err(format!(
                "has the encoding {name}, which is not read; write the file again with pandas or pyarrow \
                 (pandas.read_parquet(FILE).to_parquet(\"pairs.parquet\"))"
            ))
        }
    }
}

/// How far a codec packs at most.
#[derive(Clone, Copy)]
enum Ratio {
    /// As it is: nothing is allocated.
    Stored,
    /// Never more than so many times.
    AtMost(i64),
    /// Without a limit that matters; `datasets` have pages of 2 to 20 times.
    Zstd,
    /// As zstd, and the library unpacks it to any size.
    Gzip,
}

/// Claims above so many times the packed bytes are verified by unpacking.
const VERIFIED: i64 = 64;

fn ratio(codec: Compression) -> Result<Ratio, String> {
    Ok(match codec {
        Compression::UNCOMPRESSED => Ratio::Stored,
        // A copy of 64 bytes takes 3.
        Compression::SNAPPY => Ratio::AtMost(22),
        Compression::LZ4_RAW => Ratio::AtMost(256),
        Compression::ZSTD(_) => Ratio::Zstd,
        Compression::GZIP(_) => Ratio::Gzip,
        other @ (Compression::BROTLI(_) | Compression::LZO | Compression::LZ4) => {
            let name = format!("{other:?}");
            return Err(format!(
                "is compressed with {}, which cannot be read; write the file with snappy, zstd, gzip or no compression",
                name.split('(').next().unwrap_or_default()
            ));
        }
    })
}

/// Checks that a page unpacks to what it claims, without keeping it.
fn unpacks(source: &Source, header: &PageHeader, body: u64, ratio: Ratio) -> Result<(), String> {
    let (packed, unpacked) = (header.packed - header.levels, header.unpacked - header.levels);
    let much = unpacked > packed.saturating_mul(VERIFIED).saturating_add(1 << 16);
    match ratio {
        Ratio::Stored => return Ok(()),
        Ratio::AtMost(most) if unpacked > packed.saturating_mul(most).saturating_add(64) => {
            return Err(format!(
                "has a page of {packed} bytes that claims {unpacked} unpacked ones; is it damaged?"
            ));
        }
        Ratio::Zstd if !much => return Ok(()),
        Ratio::AtMost(_) => return Ok(()),
        Ratio::Zstd | Ratio::Gzip => {}
    }
    if packed == 0 || unpacked == 0 {
        return Ok(());
    }
    let start = body + header.levels.unsigned_abs();
    let bytes: Bytes =
        source.get_bytes(start, usize::try_from(packed).unwrap_or_default()).map_err(|e| e.to_string())?;
    let most = unpacked.unsigned_abs();
    let found = match ratio {
        Ratio::Zstd => zstd::Decoder::with_buffer(&bytes[..]).and_then(|mut decoder| {
            decoder.window_log_max(ZSTD_WINDOW)?;
            length(decoder, most)
        }),
        Ratio::Gzip | Ratio::Stored | Ratio::AtMost(_) => length(MultiGzDecoder::new(&bytes[..]), most),
    };
    let found = found.map_err(|e| format!("has a damaged page: {e}"))?;
    if found == most {
        Ok(())
    } else {
        Err(format!(
            "has a page that claims {most} bytes and unpacks to {found} or more; is the file damaged?"
        ))
    }
}

/// The bytes of `reader`, counted to one more than `most`.
fn length(reader: impl Read, most: u64) -> std::io::Result<u64> {
    std::io::copy(&mut reader.take(most + 1), &mut std::io::sink())
}
