//! Runs under faults: a disk that fills up, directories that become read-only or vanish, storms of signals, races, and
//! a process that is killed or fails at every system call that changes a file. In each case every visible checkpoint
//! loads, the log is never torn, and the run ends, once it can, with the same bytes as an undisturbed run.
//!
//! The short versions are ordinary tests. The long ones need `strace` or mounts, and therefore root, and take some
//! minutes:
//! `cargo test --release --test faults -- --ignored --test-threads 1 --nocapture`.
#![cfg(target_os = "linux")]
// The long tests print their figures.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod common;

#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/limits.rs"]
mod limits;
#[path = "faults/signals.rs"]
mod signals;
#[path = "faults/syscalls.rs"]
mod syscalls;
#[path = "faults/vanished.rs"]
mod vanished;

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use common::program::{Place, Ran};
use dpo_lora::train::checkpoint;
use serde_json::{Value, json};

const TRAIN: [&str; 3] = ["train", "-c", "run.yaml"];
const RESUME: [&str; 4] = ["train", "-c", "run.yaml", "--auto-resume"];

/// Creates a place with the recipe of a run of that many steps, and an undisturbed run in `whole`.
fn whole(steps: u64, more: &[(&str, Value)]) -> Place {
    let place = Place::new();
    let mut settings = vec![
        ("data.eval", json!(0.3)),
        ("train.max_steps", json!(steps)),
        ("train.eval_steps", json!(4)),
        ("train.save_steps", json!(3)),
        ("train.threads", json!(1)),
    ];
    settings.extend_from_slice(more);
    place.llama_recipe(&settings);
    place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]).ok();
    place
}

/// Requires that every checkpoint of a run directory loads and every line of its log is whole; returns the number of
/// checkpoints.
fn assert_sound(run: &Path) -> usize {
    let log = std::fs::read(run.join("metrics.jsonl")).unwrap_or_default();
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        serde_json::from_slice::<Value>(line).unwrap_or_else(|e| panic!("{}: {text}: {e}", run.display()));
        assert!(line.ends_with(b"\n"), "{}: {text}", run.display());
    }
    let Ok(entries) = std::fs::read_dir(run.join("checkpoints")) else { return 0 };
    let paths = entries.map(|entry| entry.unwrap().path());
    let visible = paths.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("step-"));
    let opened = visible.map(|path| (checkpoint::open(&path), path));
    opened.inspect(|(opened, path)| assert!(opened.is_ok(), "{}: {opened:?}", path.display())).count()
}

/// Requires that the run in `run` ended like the one in `whole`.
fn assert_same(place: &Place, run: &str) {
    assert_eq!(place.adapter(run), place.adapter("whole"));
    assert_eq!(place.metrics(run), place.metrics("whole"));
}

/// Requires a single error that names a cause, and no panic.
fn assert_told(ran: &Ran, causes: &[&str]) {
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    let error = ran.stderr.split("error: ").nth(1).unwrap_or_else(|| panic!("no error: {}", ran.stderr));
    assert!(causes.iter().any(|cause| error.contains(cause)), "{causes:?} in {error}");
}

fn lines(run: &Path) -> usize {
    std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default().lines().count()
}

/// Waits until the run has logged that many lines, or has ended.
fn logged(child: &mut Child, run: &Path, count: usize) {
    while lines(run) < count && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a command of the system, which must succeed.
fn system(command: &str, args: &[&str]) {
    let status = std::process::Command::new(command).args(args).status();
    assert!(status.is_ok_and(|status| status.success()), "{command} {args:?}");
}
