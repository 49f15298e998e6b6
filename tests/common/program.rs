//! Runs the built binary in a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::fixture;

/// The outcome of a run of the program.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Returns the standard output of a run that must have succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// Returns the lines with a warning, but for that of the fixture's pairs, some of whose prompts end within a token.
    pub fn warnings(&self) -> Vec<&str> {
        let told = |line: &&str| line.contains("warning:") && !line.contains("tokenized in another way");
        self.stderr.lines().filter(told).collect()
    }

    /// Returns the JSON lines of a run that must have succeeded.
    pub fn json(self) -> Vec<Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A temporary working directory, which is also the cache's.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Copies a model fixture to `model`, with its adapters in `model/adapters`.
    pub fn model(&self, name: &str) {
        copy(&fixture("models").join(name), &self.path("model"));
    }

    /// Changes a JSON file.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&self.read(name)).unwrap();
        change(&mut value);
        self.write(name, value.to_string());
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dpo-lora"));
        command.args(args).current_dir(self.0.path()).env("XDG_CACHE_HOME", self.path("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        finish(self.command(args).spawn().unwrap())
    }

    /// Writes `run.yaml`, a short training of `model` on `pairs` into `run`, with these additional settings.
    pub fn recipe(&self, model: &Path, pairs: &Path, more: &[(&str, Value)]) {
        let mut yaml = serde_json::json!({
            "output_dir": "run",
            "model": {"base": model},
            "lora": {"r": 3, "lora_alpha": 5, "lora_dropout": 0.1},
            "data": {"train": pairs},
            "train": {
                "max_steps": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
                "learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_steps": 2, "logging_steps": 1
            }
        });
        for (key, value) in more {
            let mut at = &mut yaml;
            for part in key.split('.') {
                at = &mut at[part];
            }
            *at = value.clone();
        }
        self.write("run.yaml", serde_yaml::to_string(&yaml).unwrap());
    }

    /// Writes the recipe of most tests: the llama fixture on its pairs.
    pub fn llama_recipe(&self, more: &[(&str, Value)]) {
        self.recipe(&fixture("models/llama"), &fixture("pairs.jsonl"), more);
    }

    /// Returns the `metrics.jsonl` of a run without times and memory.
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let text = String::from_utf8(self.read(&format!("{run}/metrics.jsonl"))).unwrap();
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in &mut lines {
            let line = line.as_object_mut().unwrap();
            for name in ["step_seconds", "tokens_per_second", "memory_gb", "peak_memory_gb", "time"] {
                line.shift_remove(name);
            }
        }
        lines
    }

    /// Returns both files of a run's adapter.
    pub fn adapter(&self, run: &str) -> [Vec<u8>; 2] {
        ["adapter_config.json", "adapter_model.safetensors"]
            .map(|file| self.read(&format!("{run}/adapter/{file}")))
    }
}

/// Waits for the program.
pub fn finish(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
