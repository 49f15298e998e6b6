//! `events.out.tfevents.*`: scalars for TensorBoard, written by hand.
//!
//! A file is a sequence of TFRecords (`tensorflow/core/lib/io/record_writer.h`): length u64 LE, masked CRC-32C of those
//! eight bytes, the data, masked CRC-32C of the data. The data is an `Event` message (`tensorflow/core/util/event.proto`):
//! `wall_time` double = 1, `step` int64 = 2, then one of `file_version` string = 3, `summary` = 5, `session_log` = 7.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::append::AppendFile;
use super::protobuf::{message, varint};
use super::{Event, Sink};
use crate::error::{Error, Result};

/// Writes every value of every [`Event::Metrics`] as a scalar.
pub struct TensorBoard {
    file: AppendFile,
}

impl TensorBoard {
    /// A new event file in `dir`. TensorBoard reads all files of a directory, in the order of their names, as one run.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn create(dir: impl AsRef<Path>) -> Result<Self> {
        let seconds = wall_time() as u64;
        for count in 0..1000 {
            let path = dir.as_ref().join(format!("events.out.tfevents.{seconds:010}.{count:03}.dpo-lora"));
            if let Some(mut file) = AppendFile::create_new(&path)? {
                file.append(&record(&event(wall_time(), 0, 3, b"brain.Event:2")))?;
                return Ok(Self { file });
            }
        }
        Err(Error::Data(format!(
            "{} holds 1000 event files of this second; remove some",
            dir.as_ref().display()
        )))
    }
}

impl Sink for TensorBoard {
    fn name(&self) -> &str {
        self.file.path().file_name().and_then(|name| name.to_str()).unwrap_or("events.out.tfevents")
    }

    fn record(&mut self, event_: &Event) -> Result<()> {
        match event_ {
            // SessionLog {status: START = 1} makes TensorBoard drop what an earlier file has from this step on; also at step 0,
            // where a run that was killed before its first checkpoint starts again.
            Event::Start { step, .. } => {
                self.file.append(&record(&event(wall_time(), step + 1, 7, &[1 << 3, 1])))
            }
            Event::Metrics { step, values, .. } => {
                let summary: Vec<u8> =
                    values.iter().flat_map(|(tag, value)| message(1, &scalar(tag, *value as f32))).collect();
                self.file.append(&record(&event(wall_time(), *step, 5, &summary)))
            }
            Event::Checkpoint | Event::End { .. } => self.file.sync(),
            _ => Ok(()),
        }
    }
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// `Summary.Value`: `tag` string = 1, `simple_value` float = 2.
fn scalar(tag: &str, value: f32) -> Vec<u8> {
    let mut bytes = message(1, tag.as_bytes());
    bytes.push(2 << 3 | 5);
    bytes.extend(value.to_le_bytes());
    bytes
}

/// An `Event` whose oneof is field `what`.
fn event(wall_time: f64, step: u64, what: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1 << 3 | 1];
    bytes.extend(wall_time.to_le_bytes());
    bytes.push(2 << 3);
    varint(&mut bytes, step);
    bytes.extend(message(what, payload));
    bytes
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = length.to_vec();
    bytes.extend(masked(crc32c(&length)).to_le_bytes());
    bytes.extend_from_slice(data);
    bytes.extend(masked(crc32c(data)).to_le_bytes());
    bytes
}

/// `tensorflow/core/lib/hash/crc32c.h`: a CRC of data that holds CRCs is rotated and offset.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4), bit by bit: there are only a few hundred bytes per log line.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_known_vectors() {
        // RFC 3720 B.4, and the check value of CRC-32C
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // the framing of a length of 24, as in every TensorFlow event file's first record
        assert_eq!(record(&[0; 24])[..12], [24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
    }

    /// The data of every record; checks both sums.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_at(8);
            let (crc, rest) = rest.split_at(4);
            assert_eq!(crc, masked(crc32c(length)).to_le_bytes());
            let (data, rest) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let (crc, rest) = rest.split_at(4);
            assert_eq!(crc, masked(crc32c(data)).to_le_bytes());
            all.push(data.to_vec());
            bytes = rest;
        }
        all
    }

    #[test]
    fn a_file_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = TensorBoard::create(dir.path()).unwrap();
        sink.record(&Event::Start { step: 299, total_steps: 400 }).unwrap();
        sink.record(&Event::Metrics { step: 300, epoch: 1.0, values: &[("loss", 0.5), ("x", -2.0)] })
            .unwrap();
        let records = records(&std::fs::read(sink.file.path()).unwrap());
        assert_eq!(records[0][9..], *b"\x10\x00\x1a\x0dbrain.Event:2");
        assert_eq!(records[1][9..], [0x10, 0xac, 0x02, 0x3a, 2, 8, 1]);
        let mut expected = vec![0x10, 0xac, 0x02, 0x2a, 23];
        expected.extend(b"\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f");
        expected.extend(b"\x0a\x08\x0a\x01x\x15\x00\x00\x00\xc0");
        assert_eq!(records[2][9..], expected);
        assert_eq!(records.len(), 3);
    }

    #[test]
    fn two_files_of_one_second_differ_and_sort() {
        let dir = tempfile::tempdir().unwrap();
        let first = TensorBoard::create(dir.path()).unwrap();
        let second = TensorBoard::create(dir.path()).unwrap();
        assert!(first.file.path() < second.file.path());
    }
}
