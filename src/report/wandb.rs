//! An offline run of Weights & Biases: `wandb/offline-run-TIME-ID/run-ID.wandb`, which `wandb sync` uploads.
//!
//! The file is a log of LevelDB (<https://github.com/google/leveldb/blob/main/doc/log_format.md>) behind a header of seven
//! bytes, whose sums are plain CRC-32. Its records are `Record` messages of `wandb_internal.proto` (wandb 0.31): `num` = 1,
//! then one of `history` = 2, `summary` = 3, `run` = 17, `exit` = 18, `header` = 21, `footer` = 22.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use chrono::{Local, TimeZone};
use flate2::Crc;
use serde_json::{Value, json};

use super::protobuf::{integer, message};
use super::tracker::{Described, Ended, Tracker, typed};
use crate::error::{Error, Result};

/// Identifier, magic number and version.
const HEADER: &[u8; 7] = b":W&B\xe1\xbe\x00";

/// Bytes of a block, and of the head of a part: CRC-32 of type and data, length, type.
const BLOCK: usize = 32768;
const HEAD: usize = 7;

/// The file of a run directory that says which run of the tracker it is.
const REMEMBERED: &str = "wandb.json";

/// The files of an offline run.
pub(super) struct Offline {
    root: PathBuf,
    project: String,
    entity: Option<String>,
    name: Option<String>,
    run: Option<Open>,
}

/// A run that is written.
struct Open {
    log: Log<File>,
    path: PathBuf,
    records: u64,
    /// Milliseconds since 1970.
    begun: u64,
    /// The figures of a step, until all of them are known.
    step: Option<(u64, u64, BTreeMap<String, f64>)>,
    /// The last value of every figure.
    last: BTreeMap<String, f64>,
}

impl Offline {
    /// The files below `WANDB_DIR`, else the working directory, for `WANDB_PROJECT`, `WANDB_ENTITY` and `WANDB_NAME`.
    ///
    /// # Errors
    /// [`Error::Config`] if a name has characters that Weights & Biases refuses.
    pub fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let project = lookup("WANDB_PROJECT").unwrap_or_else(|| "dpo-lora".into());
        let entity = lookup("WANDB_ENTITY");
        for (variable, value) in [("WANDB_PROJECT", Some(&project)), ("WANDB_ENTITY", entity.as_ref())] {
            if let Some(value) = value.filter(|value| value.contains(['/', '\\', '#', '?', '%', ':'])) {
                return Err(Error::Config(format!(
                    "{variable} is {value:?}; Weights & Biases accepts no name with / \\ # ? % or :"
                )));
            }
        }
        let root = PathBuf::from(lookup("WANDB_DIR").unwrap_or_default()).join("wandb");
        Ok(Self { root, project, entity, name: lookup("WANDB_NAME"), run: None })
    }
}

impl Tracker for Offline {
    fn begin(&mut self, run: &Described, time: u64) -> Result<()> {
        let id = run.identifier(REMEMBERED, time)?;
        let recorded = run.recorded(time)?;
        let begun = recorded.first().map_or(time, |first| first.time);
        let milliseconds = i64::try_from(time).unwrap_or_default();
        let named =
            Local.timestamp_millis_opt(milliseconds).single().unwrap_or_default().format("%Y%m%d_%H%M%S");
        let directory = self.root.join(format!("offline-run-{named}-{id}"));
        fs::create_dir_all(directory.join("files")).map_err(Error::write(&directory))?;
        let path = directory.join(format!("run-{id}.wandb"));
        let file = File::create(&path).map_err(Error::write(&path))?;
        let log = Log::new(file).map_err(Error::write(&path))?;
        let (step, last) = (None, BTreeMap::new());
        let mut open = Open { log, path, records: 0, begun, step, last };
        let version = message(1, env!("CARGO_PKG_VERSION").as_bytes());
        open.record(21, &message(1, &version))?;
        let name = self.name.as_ref().unwrap_or(&run.name);
        let texts =
            [(1, &id), (3, &self.project), (8, name)].into_iter().chain(self.entity.iter().map(|e| (2, e)));
        let mut described: Vec<u8> =
            texts.flat_map(|(field, text)| message(field, text.as_bytes())).collect();
        let settings = run.settings.iter().flat_map(|(key, text)| message(1, &item(key, &typed(text))));
        described.extend(message(4, &settings.collect::<Vec<u8>>()));
        let start = [integer(1, begun / 1000), integer(2, begun % 1000 * 1_000_000)].concat();
        described.extend(message(17, &start));
        open.record(17, &described)?;
        // Each file is the whole run: what an earlier one has, a sync writes over.
        recorded.iter().try_for_each(|line| open.add(line.step, &line.values, line.time))?;
        self.run = Some(open);
        Ok(())
    }

    fn log(&mut self, step: u64, values: &[(String, f64)], time: u64) -> Result<()> {
        self.run.as_mut().map_or(Ok(()), |run| run.add(step, values, time))
    }

    fn end(&mut self, how: Ended, time: u64) -> Result<()> {
        let Some(run) = &mut self.run else { return Ok(()) };
        run.flush()?;
        let update = run.last.iter().flat_map(|(key, value)| message(1, &item(key, &json!(value))));
        let update: Vec<u8> = update.collect();
        run.record(3, &update)?;
        let code = match how {
            Ended::Finished => 0,
            Ended::Failed => 1,
            Ended::Killed => 130,
        };
        let seconds = time.saturating_sub(run.begun) / 1000;
        run.record(18, &[integer(1, code), integer(2, seconds)].concat())?;
        run.record(22, &[])?;
        run.log.output.sync_all().map_err(Error::write(&run.path))
    }
}

impl Open {
    /// Adds figures of a step. A step is one record, so that it waits for the next one.
    fn add(&mut self, step: u64, values: &[(String, f64)], time: u64) -> Result<()> {
        if self.step.as_ref().is_some_and(|(waiting, ..)| *waiting != step) {
            self.flush()?;
        }
        let (_, _, waiting) = self.step.get_or_insert_with(|| (step, time, BTreeMap::new()));
        waiting.extend(values.iter().cloned());
        self.last.extend(values.iter().cloned());
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let Some((step, time, values)) = self.step.take() else { return Ok(()) };
        let seconds = |milliseconds: u64| json!(milliseconds as f64 / 1000.0);
        let own = [
            ("_step", json!(step)),
            ("_timestamp", seconds(time)),
            ("_runtime", seconds(time.saturating_sub(self.begun))),
        ];
        let mut items: Vec<u8> =
            values.iter().flat_map(|(key, value)| message(1, &item(key, &json!(value)))).collect();
        items.extend(own.iter().flat_map(|(key, value)| message(1, &item(key, value))));
        items.extend(message(2, &integer(1, step)));
        self.record(2, &items)
    }

    /// Writes a record whose content is field `what`.
    fn record(&mut self, what: u64, content: &[u8]) -> Result<()> {
        self.records += 1;
        let record = [integer(1, self.records), message(what, content)].concat();
        self.log.write(&record).map_err(Error::write(&self.path))
    }
}

/// `ConfigItem`, `HistoryItem` and `SummaryItem`: `key` = 1, `value_json` = 16.
fn item(key: &str, value: &Value) -> Vec<u8> {
    [message(1, key.as_bytes()), message(16, value.to_string().as_bytes())].concat()
}

/// A log of LevelDB.
struct Log<W> {
    output: W,
    /// Bytes written.
    len: usize,
}

impl<W: Write> Log<W> {
    fn new(mut output: W) -> std::io::Result<Self> {
        output.write_all(HEADER)?;
        Ok(Self { output, len: HEADER.len() })
    }

    /// Adds a record, in parts where a block ends.
    fn write(&mut self, mut data: &[u8]) -> std::io::Result<()> {
        let (mut bytes, mut first) = (Vec::with_capacity(data.len() + HEAD), true);
        loop {
            let left = BLOCK - (self.len + bytes.len()) % BLOCK;
            if left < HEAD {
                bytes.resize(bytes.len() + left, 0);
                continue;
            }
            let (part, rest) = data.split_at(data.len().min(left - HEAD));
            let kind = match (first, rest.is_empty()) {
                (true, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            let mut crc = Crc::new();
            crc.update(&[kind]);
            crc.update(part);
            bytes.extend(crc.sum().to_le_bytes());
            // At most `BLOCK`, which fits.
            bytes.extend((part.len() as u16).to_le_bytes());
            bytes.push(kind);
            bytes.extend(part);
            (data, first) = (rest, false);
            if data.is_empty() {
                break;
            }
        }
        self.output.write_all(&bytes)?;
        self.len += bytes.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The records of a log; checks every sum.
    fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
        assert_eq!(bytes[..7], *HEADER);
        let (mut at, mut found, mut open) = (7, Vec::new(), Vec::new());
        while at < bytes.len() {
            if BLOCK - at % BLOCK < HEAD {
                at += BLOCK - at % BLOCK;
                continue;
            }
            let len = usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
            let data = &bytes[at + 6..at + HEAD + len];
            let mut crc = Crc::new();
            crc.update(data);
            assert_eq!(crc.sum().to_le_bytes(), bytes[at..at + 4]);
            assert!(at % BLOCK + HEAD + len <= BLOCK);
            open.extend_from_slice(&data[1..]);
            if matches!(data[0], 1 | 4) {
                found.push(std::mem::take(&mut open));
            }
            at += HEAD + len;
        }
        found
    }

    #[test]
    fn records_of_every_length_at_the_end_of_a_block_read_back() {
        for end in 0..12 {
            let mut log = Log::new(Vec::new()).unwrap();
            let lengths = [BLOCK - 2 * HEAD - end, 0, 5, 3 * BLOCK, 1];
            let written: Vec<Vec<u8>> = lengths.iter().map(|len| vec![7; *len]).collect();
            written.iter().for_each(|data| log.write(data).unwrap());
            assert_eq!(records(&log.output), written, "{end} bytes before the end");
        }
    }

    fn described(directory: &Path, resumed: bool) -> Described {
        let settings = vec![("lora.r".into(), "16".into()), ("model.base".into(), "a/b".into())];
        Described {
            name: "mine".into(),
            directory: directory.into(),
            settings,
            resumed: resumed.then_some(u64::MAX),
        }
    }

    fn has(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    #[test]
    fn a_run_is_one_record_per_step_and_a_resumed_one_is_whole_under_the_same_name() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("run");
        fs::create_dir(&directory).unwrap();
        let root = place.path().display().to_string();
        let open = || Offline::from_env(&|name| (name == "WANDB_DIR").then(|| root.clone())).unwrap();
        let figures = |name: &str, value| [(name.to_string(), value)];
        let read = |run: &Offline| records(&fs::read(&run.run.as_ref().unwrap().path).unwrap());
        let mut run = open();
        run.begin(&described(&directory, false), 1_000_000).unwrap();
        run.log(1, &figures("loss", 0.5), 1_001_000).unwrap();
        run.log(1, &figures("eval_loss", 0.25), 1_002_000).unwrap();
        run.log(2, &figures("loss", 0.125), 1_003_000).unwrap();
        run.end(Ended::Killed, 1_004_000).unwrap();
        let found = read(&run);
        // Header, run, two steps, summary, exit, footer.
        assert_eq!(found.len(), 7);
        assert!(has(&found[1], "mine") && has(&found[1], "dpo-lora") && has(&found[1], "\"a/b\""));
        let step = &found[2];
        for (key, value) in [("loss", 0.5), ("eval_loss", 0.25), ("_runtime", 1.0)] {
            let bytes = item(key, &json!(value));
            assert!(step.windows(bytes.len()).any(|window| window == bytes), "{key}");
        }
        assert_eq!(found[5][2..], [0x92, 0x01, 5, 8, 0x82, 0x01, 16, 4]);
        // The log was cut behind the checkpoint's step.
        let line = "{\"step\": 1, \"loss\": 0.5, \"time\": 1001.5}\n";
        fs::write(directory.join("metrics.jsonl"), line).unwrap();
        let mut again = open();
        again.begin(&described(&directory, true), 2_000_000).unwrap();
        again.log(2, &figures("loss", 0.125), 2_001_000).unwrap();
        again.end(Ended::Finished, 2_002_000).unwrap();
        let found = read(&again);
        assert_eq!(found.len(), 7);
        // The replayed step keeps its time; the run began with it.
        for (step, key, value) in [
            (2, "_timestamp", 1001.5),
            (2, "_runtime", 0.0),
            (3, "_timestamp", 2001.0),
            (3, "_runtime", 999.5),
        ] {
            let bytes = item(key, &json!(value));
            assert!(found[step].windows(bytes.len()).any(|window| window == bytes), "{key} of {step}");
        }
        assert!(!found[2].windows(6).any(|window| window == message(1, b"time")));
        let name = |run: &Offline| run.run.as_ref().unwrap().path.file_name().unwrap().to_owned();
        assert_eq!(name(&run), name(&again));
        let mut other = open();
        other.begin(&described(&directory, false), 3_000_000).unwrap();
        assert_ne!(name(&run), name(&other));
    }

    #[test]
    fn names_that_it_refuses_are_refused_before_the_run() {
        let found = Offline::from_env(&|name| (name == "WANDB_PROJECT").then(|| "a/b".into()));
        let error = found.err().unwrap();
        assert!(error.exit_code() == 2 && error.to_string().contains("WANDB_PROJECT is \"a/b\""), "{error}");
    }
}
