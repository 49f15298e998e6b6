//! MLflow's files: what its `FileStore` reads and `mlflow ui --backend-store-uri DIR` shows.
//!
//! `DIR/<experiment>/meta.yaml`, and for each run `DIR/<experiment>/<run>/meta.yaml` with `params/KEY`, `tags/KEY` and
//! `metrics/KEY`, where a key with `/` is a path. A line of a metric is time, value and step.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::tracker::{Described, Ended, Tracker};
use crate::error::{Error, Result};
use crate::files;

/// `RunStatus` of MLflow's `service.proto`.
const RUNNING: u8 = 1;
const FINISHED: u8 = 3;
const FAILED: u8 = 4;
const KILLED: u8 = 5;

/// A directory of MLflow.
pub(super) struct Store {
    root: PathBuf,
    experiment: String,
    /// The directory of the run, and its description.
    run: Option<(PathBuf, Value)>,
}

impl Store {
    /// The files in `root`, which need not exist.
    pub fn new(root: &Path, experiment: String) -> Self {
        Self { root: root.to_path_buf(), experiment, run: None }
    }

    /// The directory of the experiment and its id; created if there is none of that name.
    fn experiment(&self, time: u64) -> Result<(PathBuf, String)> {
        fs::create_dir_all(&self.root).map_err(Error::write(&self.root))?;
        let root = fs::canonicalize(&self.root).map_err(Error::read(&self.root))?;
        let mut paths: Vec<PathBuf> =
            fs::read_dir(&root).map_err(Error::read(&root))?.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in &paths {
            let Ok(text) = fs::read_to_string(path.join("meta.yaml")) else { continue };
            let found: Value = serde_yaml::from_str(&text).unwrap_or(Value::Null);
            if found["name"] == self.experiment.as_str() {
                let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Ok((path.clone(), id));
            }
        }
        // MLflow's own ids are 18 digits that come from a UUID.
        let number =
            u64::from_str_radix(&identity(&[&self.experiment, &time.to_string()])[..14], 16).unwrap_or(1);
        let id = format!("{:018}", number % 1_000_000_000_000_000_000);
        let path = root.join(&id);
        let meta = json!({
            "artifact_location": location(&path), "creation_time": time, "experiment_id": id, "last_update_time": time,
            "lifecycle_stage": "active", "name": self.experiment,
        });
        write_meta(&path, &meta)?;
        Ok((path, id))
    }

    fn write_status(&mut self, status: u8, end: Option<u64>) -> Result<()> {
        let Some((path, meta)) = &mut self.run else { return Ok(()) };
        meta["status"] = status.into();
        meta["end_time"] = end.into();
        write_meta(path, meta)
    }
}

impl Tracker for Store {
    fn begin(&mut self, run: &Described, time: u64) -> Result<()> {
        let (experiment, experiment_id) = self.experiment(time)?;
        // The same directory is the same run.
        let place = fs::canonicalize(&run.directory).unwrap_or_else(|_| run.directory.clone());
        let place = place.to_string_lossy().into_owned();
        let mut id = identity(&[&place]);
        let earlier = experiment.join(&id);
        if let (true, Ok(text)) = (run.resumed.is_some(), fs::read_to_string(earlier.join("meta.yaml"))) {
            let broken =
                |e: serde_yaml::Error| Error::Data(format!("{}: {e}", earlier.join("meta.yaml").display()));
            self.run = Some((earlier.clone(), serde_yaml::from_str(&text).map_err(broken)?));
            return self.write_status(RUNNING, None);
        }
        if earlier.exists() {
            id = identity(&[&place, &time.to_string()]);
        }
        let path = experiment.join(&id);
        let meta = json!({
            "artifact_uri": format!("{}/artifacts", location(&path)), "end_time": null, "entry_point_name": "",
            "experiment_id": experiment_id, "lifecycle_stage": "active", "run_id": id, "run_name": run.name,
            "run_uuid": id, "source_name": "", "source_type": 4, "source_version": "", "start_time": time,
            "status": RUNNING, "tags": [], "user_id": "",
        });
        for (key, value) in &run.settings {
            put(&path.join("params").join(key), value)?;
        }
        put(&path.join("tags/mlflow.runName"), &run.name)?;
        put(&path.join("tags/mlflow.source.name"), "dpo-lora")?;
        for folder in ["metrics", "artifacts"] {
            fs::create_dir_all(path.join(folder)).map_err(Error::write(path.join(folder)))?;
        }
        write_meta(&path, &meta)?;
        self.run = Some((path, meta));
        Ok(())
    }

    fn log(&mut self, step: u64, values: &[(String, f64)], time: u64) -> Result<()> {
        let Some((run, _)) = &self.run else { return Ok(()) };
        for (key, value) in values {
            let path = run.join("metrics").join(key);
            fs::create_dir_all(files::parent(&path)).map_err(Error::write(&path))?;
            let mut file =
                OpenOptions::new().append(true).create(true).open(&path).map_err(Error::write(&path))?;
            file.write_all(format!("{time} {value} {step}\n").as_bytes()).map_err(Error::write(&path))?;
        }
        Ok(())
    }

    fn end(&mut self, how: Ended, time: u64) -> Result<()> {
        let status = match how {
            Ended::Finished => FINISHED,
            Ended::Failed => FAILED,
            Ended::Killed => KILLED,
        };
        self.write_status(status, Some(time))
    }
}

/// 32 hexadecimal digits, as MLflow's run ids have.
fn identity(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| {
        hasher.update(part.as_bytes()).update(b"\0");
    });
    hasher.finalize().to_hex()[..32].to_string()
}

fn location(path: &Path) -> String {
    format!("file://{}", path.display())
}

fn put(path: &Path, value: &str) -> Result<()> {
    fs::create_dir_all(files::parent(path)).map_err(Error::write(path))?;
    fs::write(path, value).map_err(Error::write(path))
}

fn write_meta(directory: &Path, meta: &Value) -> Result<()> {
    fs::create_dir_all(directory).map_err(Error::write(directory))?;
    let text = serde_yaml::to_string(meta).map_err(|e| Error::Data(e.to_string()))?;
    files::write_bytes(&directory.join("meta.yaml"), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_found_again_when_it_goes_on() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("mlruns");
        let mut run = Described {
            name: "polite".into(),
            directory: place.path().to_path_buf(),
            settings: vec![("lora.r".into(), "16".into())],
            resumed: None,
        };
        let mut store = Store::new(&root, "mine".into());
        store.begin(&run, 1000).unwrap();
        store.log(1, &[("rewards/chosen".into(), 0.5)], 1001).unwrap();
        store.end(Ended::Killed, 1002).unwrap();
        let path = store.run.as_ref().unwrap().0.clone();
        assert!(fs::read_to_string(path.join("meta.yaml")).unwrap().contains("status: 5"));
        run.resumed = Some(2);
        let mut again = Store::new(&root, "mine".into());
        again.begin(&run, 2000).unwrap();
        again.log(2, &[("rewards/chosen".into(), -1.5e-7)], 2001).unwrap();
        again.end(Ended::Finished, 2002).unwrap();
        let figures = fs::read_to_string(path.join("metrics/rewards/chosen")).unwrap();
        assert_eq!(figures, "1001 0.5 1\n2001 -0.00000015 2\n");
        let meta: Value = serde_yaml::from_str(&fs::read_to_string(path.join("meta.yaml")).unwrap()).unwrap();
        assert_eq!(
            (meta["status"].as_u64(), meta["start_time"].as_u64(), meta["end_time"].as_u64()),
            (Some(3), Some(1000), Some(2002))
        );
        assert_eq!(fs::read_to_string(path.join("params/lora.r")).unwrap(), "16");
        // Not resumed, it is another run of the same experiment.
        run.resumed = None;
        let mut other = Store::new(&root, "mine".into());
        other.begin(&run, 3000).unwrap();
        assert_ne!(other.run.unwrap().0, path);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    }
}
