//! trackio's inbox: `inbox/WRITER/NUMBER.jsonl` in its directory, which its dashboard (`trackio show`) takes in and removes.
//!
//! Lines are those of `trackio/fragments.py` (0.43). trackio leaves out a line whose `log_id` it has: what a resumed run writes
//! again is there once. A dashboard looks every 15 seconds, so figures are put together for some seconds.

use std::path::PathBuf;

use chrono::{SecondsFormat, TimeZone, Utc};
use serde_json::{Map, Value, json};

use super::tracker::{Described, Ended, Tracker, typed};
use crate::error::{Error, Result};
use crate::files;

/// The version of the lines.
const VERSION: u64 = 1;

/// Milliseconds between two files.
const PACE: u64 = 5000;

/// A dashboard removes a directory whose files it took in, also while the next file is being written.
const ATTEMPTS: u32 = 3;

/// The file of a run directory that says which run of the tracker it is.
const REMEMBERED: &str = "trackio.json";

/// The files that a dashboard takes in.
pub(super) struct Inbox {
    root: PathBuf,
    project: String,
    run: Option<Open>,
}

/// A run that is written.
struct Open {
    directory: PathBuf,
    project: String,
    name: String,
    id: String,
    config: Map<String, Value>,
    files: u64,
    /// Lines that are in no file yet.
    waiting: Vec<Value>,
    /// When the last file was written, in milliseconds since 1970.
    written: u64,
}

impl Inbox {
    /// The inbox of `TRACKIO_DIR`, else of `trackio` in the home of Hugging Face's programs, for `TRACKIO_PROJECT`.
    ///
    /// # Errors
    /// [`Error::Config`] if the environment names a server or a Space, or there is no home directory.
    pub fn from_env(lookup: &dyn Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Self> {
        let remote =
            ["TRACKIO_SERVER_URL", "TRACKIO_SPACE_ID"].into_iter().find(|name| lookup(name).is_some());
        if let Some(name) = remote {
            return Err(Error::Config(format!(
                "{name} is set, but figures are only written for a dashboard on this machine; unset it, and after `trackio show` \
                 has taken them in, send them on: trackio sync --project PROJECT --space-id SPACE"
            )));
        }
        let path = |name: &str| {
            let value = PathBuf::from(lookup(name)?);
            // Python expands it too, because shells do not inside quotes or unit files.
            Some(match (value.strip_prefix("~"), &home) {
                (Ok(rest), Some(home)) => home.join(rest),
                _ => value,
            })
        };
        let hugging_face = || {
            path("HF_HOME")
                .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
                .or_else(|| home.as_ref().map(|home| home.join(".cache").join("huggingface")))
        };
        let directory = path("TRACKIO_DIR").or_else(|| hugging_face().map(|home| home.join("trackio")));
        let directory = directory.ok_or_else(|| {
            Error::Config("there is no home directory to write trackio's files to; set TRACKIO_DIR".into())
        })?;
        let project = lookup("TRACKIO_PROJECT").unwrap_or_else(|| "dpo-lora".into());
        Ok(Self { root: directory.join("inbox"), project, run: None })
    }
}

impl Tracker for Inbox {
    fn begin(&mut self, run: &Described, time: u64) -> Result<()> {
        let id = run.identifier(REMEMBERED, time)?;
        let mut config: Map<String, Value> =
            run.settings.iter().map(|(key, text)| (key.clone(), typed(text))).collect();
        let recorded = run.recorded(time)?;
        let begun = recorded.first().map_or(time, |first| first.time);
        config.insert("_Created".into(), written(begun).into());
        let mut open = Open {
            // Two processes of a run do not share a directory.
            directory: self.root.join(format!("dpo-lora-{id}-{time}")),
            project: self.project.clone(),
            name: run.name.clone(),
            id,
            config,
            files: 0,
            waiting: Vec::new(),
            written: 0,
        };
        for line in &recorded {
            open.add(line.step, &line.values, line.time);
        }
        open.flush(time)?;
        self.run = Some(open);
        Ok(())
    }

    fn log(&mut self, step: u64, values: &[(String, f64)], time: u64) -> Result<()> {
        let Some(run) = &mut self.run else { return Ok(()) };
        run.add(step, values, time);
        if time.saturating_sub(run.written) < PACE { Ok(()) } else { run.flush(time) }
    }

    fn end(&mut self, _: Ended, time: u64) -> Result<()> {
        // trackio has no state of a run.
        self.run.as_mut().map_or(Ok(()), |run| run.flush(time))
    }
}

impl Open {
    fn add(&mut self, step: u64, values: &[(String, f64)], time: u64) {
        let of_evaluation = values.iter().any(|(name, _)| name.starts_with("eval_"));
        let kind = if of_evaluation { "eval" } else { "train" };
        let metrics: Map<String, Value> =
            values.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        self.waiting.push(json!({
            "v": VERSION, "kind": "metric", "project": self.project, "run": self.name, "run_id": self.id, "metrics": metrics,
            "step": step, "timestamp": written(time), "config": null, "log_id": format!("{}-{step}-{kind}", self.id),
        }));
    }

    /// Writes the lines that wait into a file of their own. The first line of a file has the settings.
    fn flush(&mut self, time: u64) -> Result<()> {
        let Some(first) = self.waiting.first_mut() else { return Ok(()) };
        first["config"] = Value::Object(self.config.clone());
        let text: String = self.waiting.iter().map(|line| format!("{line}\n")).collect();
        let path = self.directory.join(format!("{:08}.jsonl", self.files));
        let mut attempt = 1;
        while let Err(error) = files::write_bytes(&path, text.as_bytes()) {
            if attempt == ATTEMPTS {
                return Err(error);
            }
            attempt += 1;
        }
        self.waiting.clear();
        self.files += 1;
        self.written = time;
        Ok(())
    }
}

/// A time as trackio writes it: ISO 8601, UTC.
fn written(time: u64) -> String {
    let time = i64::try_from(time).ok().and_then(|time| Utc.timestamp_millis_opt(time).single());
    time.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, false)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn described(directory: &Path, resumed: bool) -> Described {
        let settings = vec![("lora.r".into(), "16".into()), ("model.base".into(), "a/b".into())];
        Described {
            name: "mine".into(),
            directory: directory.into(),
            settings,
            resumed: resumed.then_some(u64::MAX),
        }
    }

    fn inbox(place: &Path) -> Inbox {
        let root = place.display().to_string();
        Inbox::from_env(&|name| (name == "TRACKIO_DIR").then(|| root.clone()), None).unwrap()
    }

    /// All lines, file by file.
    fn lines(place: &Path) -> Vec<Vec<Value>> {
        let sorted = |path: &Path| {
            let mut paths: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
            paths.sort();
            paths
        };
        let files = sorted(&place.join("inbox")).into_iter().flat_map(|writer| sorted(&writer));
        let read = |path: PathBuf| {
            let text = fs::read_to_string(path).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        files.map(read).collect()
    }

    #[test]
    fn figures_are_put_together_and_a_resumed_run_names_its_lines_as_before() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("run");
        fs::create_dir(&directory).unwrap();
        let figures = |name: &str, value| [(name.to_string(), value)];
        let mut run = inbox(place.path());
        run.begin(&described(&directory, false), 1_000_000).unwrap();
        run.log(1, &figures("loss", 0.5), 1_001_000).unwrap();
        run.log(1, &figures("eval_loss", 0.25), 1_002_000).unwrap();
        run.log(2, &figures("loss", 0.125), 1_007_000).unwrap();
        run.log(3, &figures("loss", 0.0625), 1_008_000).unwrap();
        run.end(Ended::Killed, 1_009_000).unwrap();
        let found = lines(place.path());
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1]);
        let first = &found[0][0];
        assert_eq!(first["config"]["lora.r"], 16);
        assert_eq!((&first["metrics"], &first["step"]), (&json!({"loss": 0.5}), &json!(1)));
        assert_eq!(first["timestamp"], "1970-01-01T00:16:41.000+00:00");
        assert_eq!((&first["project"], &first["run"]), (&json!("dpo-lora"), &json!("mine")));
        assert_ne!(first["log_id"], found[1][0]["log_id"]);
        // The log was cut behind the checkpoint's step.
        let line = "{\"step\": 1, \"loss\": 0.5, \"time\": 1001}\n";
        fs::write(directory.join("metrics.jsonl"), line).unwrap();
        let mut again = inbox(place.path());
        again.begin(&described(&directory, true), 2_000_000).unwrap();
        again.log(2, &figures("loss", 0.125), 2_001_000).unwrap();
        again.end(Ended::Finished, 2_002_000).unwrap();
        let found = lines(place.path());
        let (replayed, repeated) = (&found[3][0], &found[4][0]);
        for key in ["log_id", "run_id", "metrics", "timestamp"] {
            assert_eq!(replayed[key], found[0][0][key], "{key}");
        }
        assert_eq!(repeated["log_id"], found[1][1]["log_id"]);
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn the_nearer_variable_wins_and_other_machines_are_refused() {
        let root = |variables: &[(&str, &str)]| {
            let lookup = |name: &str| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_string())
            };
            Inbox::from_env(&lookup, Some("h".into())).map(|inbox| inbox.root)
        };
        for (variables, expected) in [
            (&[][..], "h/.cache/huggingface/trackio/inbox"),
            (&[("XDG_CACHE_HOME", "x")], "x/huggingface/trackio/inbox"),
            (&[("XDG_CACHE_HOME", "x"), ("HF_HOME", "~/y")], "h/y/trackio/inbox"),
            (&[("HF_HOME", "y"), ("TRACKIO_DIR", "z")], "z/inbox"),
        ] {
            assert_eq!(root(variables).unwrap(), Path::new(expected));
        }
        for name in ["TRACKIO_SERVER_URL", "TRACKIO_SPACE_ID"] {
            let error = root(&[(name, "me/space")]).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("trackio sync"), "{error}");
        }
        assert!(Inbox::from_env(&|_| None, None).err().unwrap().to_string().contains("TRACKIO_DIR"));
    }
}
