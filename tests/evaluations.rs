//! `eval win-rate`, `frontier`, `learning-curve`, `calibration` and `collect`, from the built program; and the divergence
//! that is estimated on samples against exact enumeration.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "evaluations/collecting.rs"]
mod collecting;
#[path = "evaluations/divergence.rs"]
mod divergence;
#[path = "evaluations/measured.rs"]
mod measured;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// The adapter whose reviews are favourable.
fn favourable() -> String {
    format!("{}/adapters/tiny-reviews-favourable", env!("CARGO_MANIFEST_DIR"))
}

/// A working directory, and the outcome of the program in it.
struct Place(tempfile::TempDir);

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Runs the program with this standard input.
    fn run_with(&self, input: &str, args: &[&str]) -> Ran {
        use std::io::Write;
        let mut command = Command::new(env!("CARGO_BIN_EXE_dpo-lora"));
        command.args(args).current_dir(self.0.path()).env("XDG_CACHE_HOME", cache());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A program that reads nothing closes it.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_with("", args)
    }
}

/// A cache that all tests share, so that the embedded base is unpacked once.
fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("evaluations-cache")
}
