//! Files and directories that vanish during a run.

use crate::common::program::finish;
use crate::{RESUME, assert_same, assert_sound, logged, whole};

/// Removes something from a run that has begun. The run continues, and so does one that resumes it.
fn without(name: &str, keeps_metrics: bool) {
    let place = whole(60, &[]);
    let run = place.path("run");
    let mut child = place.command(&RESUME).spawn().unwrap();
    logged(&mut child, &run, 12);
    let path = run.join(name);
    let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    // A directory may gain files while it is being removed.
    let _ = removed;
    let ran = finish(child);
    // A file that is being written at that moment may be missing; a run that reports this can be resumed.
    if ran.code != Some(0) {
        assert!(ran.code == Some(1) && ran.stderr.contains("cannot "), "{:?}: {}", ran.code, ran.stderr);
        place.run(&RESUME).ok();
    }
    assert_sound(&run);
    assert_eq!(place.adapter("run"), place.adapter("whole"), "without {name}");
    if keeps_metrics {
        assert_same(&place, "run");
    }
}

#[test]
fn checkpoints_that_vanish_are_written_anew() {
    without("checkpoints", true);
}

#[test]
fn a_log_or_a_configuration_that_vanishes_is_not_needed() {
    without("metrics.jsonl", false);
    without("config.yaml", true);
}

#[test]
fn a_run_directory_that_vanishes_is_made_anew() {
    without("", false);
}
