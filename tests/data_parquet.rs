//! Parquet files of pyarrow, pandas and `datasets`: the rows that Python reads, and hostile files.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use dpo_lora::data::Sources;
use dpo_lora::data::source::{Input, resolve};
use serde_json::Value as Json;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet")
}

fn inputs(path: &Path) -> Vec<Input> {
    resolve(&Sources::from(path.to_str().unwrap())).unwrap()
}

/// The rows of a file up to its first error that ends it.
fn rows(path: &Path) -> Result<Vec<Json>, String> {
    let mut found = Vec::new();
    for row in inputs(path)[0].rows().map_err(|e| e.to_string())? {
        let row = row.map_err(|e| e.to_string())?;
        assert_eq!(row.origin.line, found.len() + 1);
        found.push(row.value);
    }
    Ok(found)
}

fn refused(name: &str) -> String {
    rows(&fixtures().join(name)).unwrap_err()
}

/// A file of the given bytes.
fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".parquet").tempfile().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn rows_are_those_that_python_reads() {
    let mut compared = 0;
    for path in std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let expected = fixtures().join(format!("{}.jsonl", name.split('-').next().unwrap()));
        if path.extension().is_none_or(|e| e != "parquet") || !expected.exists() {
            continue;
        }
        let expected: Vec<Json> = std::fs::read_to_string(expected)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let found = rows(&path).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
            for (column, expected) in expected.as_object().unwrap() {
                assert_eq!(&found[column], expected, "{name}, row {}, `{column}`", row + 1);
            }
            assert_eq!(found, expected, "{name}, row {}", row + 1);
        }
        compared += 1;
    }
    assert_eq!(compared, 15);
}

#[test]
fn a_file_is_known_by_its_content() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(fixtures().join("pairs-zstd.parquet")).unwrap();
    for name in ["a.jsonl", "b.csv", "c"] {
        let path = directory.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(rows(&path).unwrap().len(), 7, "{name}");
    }
    let shards = directory.path().join("train-*.parquet");
    for shard in 0..3 {
        std::fs::write(directory.path().join(format!("train-{shard:05}-of-00003.parquet")), &bytes).unwrap();
    }
    assert_eq!(inputs(&shards).len(), 3);
    std::fs::write(directory.path().join("x.parquet"), "{}\n").unwrap();
    assert!(rows(&directory.path().join("x.parquet")).unwrap_err().contains("does not begin with `PAR1`"));
    let gzip = directory.path().join("x.parquet.gz");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &bytes).unwrap();
    std::fs::write(&gzip, encoder.finish().unwrap()).unwrap();
    assert!(rows(&gzip).unwrap_err().contains("unpack it and name the file"));
}

#[test]
fn what_is_not_read_is_named_with_the_remedy() {
    let message = refused("brotli.parquet");
    for part in ["brotli.parquet:1: row group 1", "column `i` is compressed with BROTLI", "snappy, zstd"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let message = refused("delta-byte-array.parquet");
    assert!(
        message.contains("column `s` has the encoding DELTA_BYTE_ARRAY") && message.contains("to_parquet")
    );
}

/// Of a file cut anywhere there is an error, which names the file.
#[test]
fn a_file_that_is_cut_off_is_an_error() {
    let whole = std::fs::read(fixtures().join("pairs-none.parquet")).unwrap();
    for cut in (4..whole.len()).step_by(7) {
        let file = file(&whole[..cut]);
        let message = rows(file.path()).unwrap_err();
        assert!(message.starts_with(file.path().to_str().unwrap()), "{cut}: {message}");
    }
    let mut claims = whole.clone();
    let at = claims.len() - 8;
    claims[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(rows(file(&claims).path()).unwrap_err().contains("claims 4294967295 bytes of metadata, but has"));
    let end = claims.len() - 1;
    claims[end] = b'E';
    assert!(rows(file(&claims).path()).unwrap_err().contains("is encrypted"));
}

/// A file with a wrong byte anywhere gives rows or an error, and comes to its end.
#[test]
fn a_damaged_byte_is_rows_or_an_error() {
    for name in ["pairs-none", "types", "pages-v2"] {
        let whole = std::fs::read(fixtures().join(format!("{name}.parquet"))).unwrap();
        let step = (whole.len() / 250).max(1);
        for at in (4..whole.len()).step_by(step) {
            for bit in [0x01, 0x80, 0xFF] {
                let mut bytes = whole.clone();
                bytes[at] ^= bit;
                let file = file(&bytes);
                let Ok(found) = inputs(file.path())[0].rows() else { continue };
                assert!(found.take(10_000).count() < 10_000, "{name}: byte {at}");
            }
        }
    }
}
