//! Data that claim or hold too much end with one clear error, in bounded memory. The peak (`VmHWM`) is that of the program
//! as a process of its own, which takes 20 to 40 MB when it does nothing.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::time::Duration;

use common::fixture;
use common::program::{Place, finish};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Runs the program; returns what it says and its peak in MiB.
fn peak(place: &Place, args: &[&str]) -> (Option<i32>, String, usize) {
    let child = place.command(args).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let watching = std::thread::spawn(move || {
        let mut peak = 0;
        while let Ok(text) = std::fs::read_to_string(&status) {
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            // A process that has ended has no memory left.
            let Some(kilobytes) = line.and_then(|line| line.trim().strip_suffix(" kB")) else { break };
            peak = peak.max(kilobytes.parse::<usize>().unwrap());
            std::thread::sleep(Duration::from_millis(1));
        }
        peak >> 10
    });
    let ran = finish(child);
    (ran.code, ran.stderr + &ran.stdout, watching.join().unwrap())
}

/// `data check` and `train --dry-run` of `file` both name `part`, once, and stay under `most` MiB.
#[track_caller]
fn refused(place: &Place, file: &str, part: &str, most: usize) {
    place.recipe(&fixture("models").join("llama"), &place.path(file), &[]);
    for args in [&["data", "check", file][..], &["train", "-c", "run.yaml", "--dry-run"]] {
        let (code, said, peak) = peak(place, args);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(part) && said.contains(file), "expected {part:?} in: {said}");
        assert!(said.len() < 4000, "{} bytes are said", said.len());
        assert!(peak < most, "{args:?} took {peak} MiB");
    }
}

const MIB: usize = 1 << 20;

#[test]
fn a_line_of_50_mb_is_named() {
    let place = Place::new();
    let long = "a b ".repeat(50 * MIB / 4);
    place.write("valid.jsonl", format!(r#"{{"prompt": "{long}", "chosen": "c", "rejected": "d"}}"#));
    refused(&place, "valid.jsonl", "valid.jsonl:1: the record holds 50 MiB of text; at most 16 MiB", 400);
    place.write("text.jsonl", &long);
    refused(&place, "text.jsonl", "text.jsonl:1: not valid JSON", 300);
    place.write("cell.csv", format!("prompt,chosen,rejected\nx,\"{long}\",y\n"));
    refused(&place, "cell.csv", "cell.csv:2: the record holds 50 MiB of text", 400);
    place.write("element.json", format!(r#"[{{"prompt": "{long}", "chosen": "c", "rejected": "d"}}]"#));
    refused(&place, "element.json", "element.json:1: the record holds 50 MiB of text", 400);
}

/// A gibibyte of zeros, of spaces, and of one line, packed about a thousand times.
#[test]
fn archives_that_unpack_to_gigabytes_are_named() {
    let place = Place::new();
    let block = |byte: u8| vec![byte; MIB];
    let gzip = |begin: &str, byte| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(begin.as_bytes()).unwrap();
        (0..1024).for_each(|_| encoder.write_all(&block(byte)).unwrap());
        encoder.finish().unwrap()
    };
    place.write("zeros.jsonl.gz", gzip("", 0));
    refused(&place, "zeros.jsonl.gz", "zeros.jsonl.gz: the file is UTF-16 text", 150);
    place.write("line.jsonl.gz", gzip("x", b'x'));
    refused(&place, "line.jsonl.gz", "line.jsonl.gz:1: the line is longer than 64 MiB", 300);
    place.write("cell.csv.gz", gzip("prompt,chosen\n\"", b'x'));
    refused(&place, "cell.csv.gz", "cell.csv.gz:2: a record is longer than 64 MiB", 300);
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(b"{\"prompt\": \"").unwrap();
    (0..1024).for_each(|_| encoder.write_all(&block(b'x')).unwrap());
    place.write("object.json.zst", encoder.finish().unwrap());
    refused(&place, "object.json.zst", "object.json.zst", 500);
}

/// A field of Thrift's compact protocol: an `i32` under 2^35.
fn number(step: u8, value: u64) -> Vec<u8> {
    let mut bytes = vec![step << 4 | 5];
    let mut rest = value << 1;
    while rest > 127 {
        bytes.push((rest & 127) as u8 | 128);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

#[test]
fn parquet_that_claims_10_gb_is_named() {
    let place = Place::new();
    let whole = std::fs::read(fixture("parquet/pairs-zstd.parquet")).unwrap();
    // The length of the metadata is 32 bits wide: 4 GB are the most that it can claim.
    let mut footer = whole.clone();
    let at = footer.len() - 8;
    footer[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    place.write("footer.parquet", footer);
    refused(&place, "footer.parquet", "claims 4294967295 bytes of metadata, but has", 100);
    // The header of the first page: its type, its unpacked size and its packed one follow `PAR1`.
    let mut page = whole[..4].to_vec();
    page.extend(number(1, 2).into_iter().chain(number(1, 10_000_000_000)).chain(number(1, 9)));
    let length = page.len();
    page.extend(&whole[length..]);
    place.write("page.parquet", page);
    refused(&place, "page.parquet", "row group 1 cannot be read", 100);
    // A list of so many schema elements.
    let metadata = [&[0x15, 2, 0x19, 0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 7][..], &[0; 40]].concat();
    let mut list = [b"PAR1", &metadata[..]].concat();
    list.extend((metadata.len() as u32).to_le_bytes());
    list.extend(b"PAR1");
    place.write("list.parquet", list);
    refused(&place, "list.parquet", "the metadata of the Parquet file are damaged", 100);
}

/// `tests/fixtures/parquet/bombs.py` wrote them: pages that unpack to more than they weigh.
#[test]
fn pages_that_unpack_to_gigabytes_are_named() {
    let place = Place::new();
    for (name, part, most) in [
        ("row", "the row has more than 64 MiB of text", 500),
        ("elements", "lists of more than 262144 elements", 150),
        ("gzip", "claims", 150),
    ] {
        let file = format!("{name}.parquet");
        place.write(&file, std::fs::read(fixture(&format!("parquet/bombs/{file}"))).unwrap());
        refused(&place, &file, part, most);
    }
}
