//! Runs that are stopped, killed or damaged end with the same bytes as an undisturbed run.
#![cfg(unix)]

use std::process::{Child, Command};
use std::time::Duration;

use dpo_lora::random::Stream;
use dpo_lora::train::checkpoint;
use serde_json::{Value, json};

use crate::common::program::{Place, Ran, copy, finish};

const RESUME: [&str; 4] = ["train", "-c", "run.yaml", "--auto-resume"];

/// A run long enough to be interrupted, with dropout, accumulation, evaluation and checkpoints.
fn recipe(place: &Place, more: &[(&str, Value)]) {
    let settings = [
        ("data.eval", json!(0.3)),
        ("train.max_steps", json!(60)),
        ("train.eval_steps", json!(7)),
        ("train.save_steps", json!(5)),
        ("train.logging_steps", json!(3)),
        ("train.threads", json!(1)),
    ];
    place.llama_recipe(&[&settings[..], more].concat());
}

/// Runs the recipe undisturbed, in `whole`.
fn whole(place: &Place, more: &[(&str, Value)]) -> Ran {
    recipe(place, more);
    let ran = place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran
}

/// The setting of a run that stops early, after step 21: its evaluations after steps 14 and 21 are worse than that after step 7.
fn early() -> [(&'static str, Value); 1] {
    [("train.early_stopping_patience", json!(2))]
}

fn lines(place: &Place) -> usize {
    std::fs::read_to_string(place.path("run/metrics.jsonl")).unwrap_or_default().lines().count()
}

/// Starts or resumes the run and waits until it has logged `more` additional lines or has ended.
fn start(place: &Place, more: usize) -> Child {
    let before = lines(place);
    let mut child = place.command(&RESUME).spawn().unwrap();
    while lines(place) < before + more && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

fn assert_same_as_whole(place: &Place) {
    assert_eq!(place.adapter("run"), place.adapter("whole"));
    assert_eq!(place.metrics("run"), place.metrics("whole"));
}

/// Requires that every visible checkpoint loads.
fn assert_checkpoints_load(place: &Place) -> usize {
    let Ok(entries) = std::fs::read_dir(place.path("run/checkpoints")) else { return 0 };
    let paths = entries.map(|entry| entry.unwrap().path());
    let visible = paths.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("step-"));
    visible
        .map(|path| checkpoint::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .collect::<Vec<_>>()
        .len()
}

fn stopped_by(name: &str, code: i32) {
    let place = Place::new();
    whole(&place, &[]);
    let child = start(&place, 3);
    signal(&child, name);
    let Ran { code: found, stdout, stderr } = finish(child);
    assert_eq!((found, stdout.contains("held-out")), (Some(code), false), "{stderr}");
    assert!(stderr.contains("--resume"), "{stderr}");
    assert!(!place.path("run/adapter").exists(), "an unfinished run has no adapter/");
    assert!(assert_checkpoints_load(&place) > 0);
    let step = checkpoint::newest(&place.path("run")).0.unwrap().1.step;
    assert!(step < 60, "the run was over before the signal came");
    let resumed = place.run(&RESUME);
    assert!(resumed.stderr.contains(&format!("step-{step}")), "{}", resumed.stderr);
    resumed.ok();
    assert_same_as_whole(&place);
}

#[test]
fn sigterm_ends_143_and_resumes_to_the_same_bytes() {
    stopped_by("-TERM", 143);
}

#[test]
fn sigint_ends_130_and_resumes_to_the_same_bytes() {
    stopped_by("-INT", 130);
}

/// Kills the run `kills` times. It is resumed each time, and started anew whenever it was complete.
fn kill(kills: u64, more: &[(&str, Value)]) {
    let place = Place::new();
    whole(&place, more);
    let moments = Stream::new(1, "kills");
    for kill in 0..kills {
        // The first kill comes before anything is logged, the later ones at increasing points within a step.
        let mut child = start(&place, usize::from(kill > 0) * moments.below(2 * kill, 4));
        std::thread::sleep(Duration::from_micros(moments.below(2 * kill + 1, 30_000) as u64));
        let done = child.try_wait().unwrap().is_some_and(|status| status.success());
        child.kill().unwrap();
        finish(child);
        assert_checkpoints_load(&place);
        if done {
            assert_same_as_whole(&place);
            std::fs::remove_dir_all(place.path("run")).unwrap();
        }
    }
    place.run(&RESUME).ok();
    assert_same_as_whole(&place);
    let litter = |name: &str| {
        let entries = std::fs::read_dir(place.path(name)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".tmp-")).collect::<Vec<_>>()
    };
    assert_eq!(
        (litter("run"), litter("run/checkpoints")),
        (vec![], vec![]),
        "half-written files are cleared"
    );
}

#[test]
fn killed_at_random_moments_it_ends_with_the_same_bytes() {
    kill(6, &[]);
    kill(3, &early());
}

#[test]
#[ignore = "a minute or two: cargo test --release --test cli -- --ignored"]
fn killed_two_hundred_times_it_ends_with_the_same_bytes() {
    kill(200, &[]);
}

#[test]
fn a_run_that_stopped_early_stays_over_when_it_is_resumed() {
    let place = Place::new();
    let ran = whole(&place, &early());
    assert!(ran.stderr.contains("stopped early: 2 evaluations without a better eval_loss"), "{}", ran.stderr);
    assert_eq!(place.metrics("whole").last().unwrap()["step"], 21);
    // Killed after the last checkpoint and before the adapter was written.
    copy(&place.path("whole"), &place.path("run"));
    std::fs::remove_dir_all(place.path("run/adapter")).unwrap();
    for _ in 0..2 {
        let resumed = place.run(&RESUME);
        let said = "nothing is left to train: set train.early_stopping_patience above 2 to continue";
        assert!(resumed.stderr.contains(said), "{}", resumed.stderr);
        resumed.ok();
        assert_same_as_whole(&place);
    }
    let more = place.run(&[&RESUME[..], &["--set", "train.early_stopping_patience=3"]].concat());
    assert!(more.stderr.contains("stopped early: 3 evaluations"), "{}", more.stderr);
    more.ok();
    assert_eq!(place.metrics("run").last().unwrap()["step"], 28);
}

#[test]
fn a_stage_that_stopped_early_is_not_trained_to_its_full_length() {
    let stages = json!([
        {"name": "one", "objective": {"loss_type": "sigmoid"}, "train": {"early_stopping_patience": 2}},
        {"name": "two", "adapter": "continue", "objective": {"loss_type": "ipo"}, "train": {"max_steps": 3}},
    ]);
    let place = Place::new();
    whole(&place, &[("stages", stages)]);
    assert_eq!(place.metrics("whole/1-one").last().unwrap()["step"], 21);
    copy(&place.path("whole"), &place.path("run"));
    for lost in ["run/1-one/adapter", "run/2-two", "run/adapter"] {
        std::fs::remove_dir_all(place.path(lost)).unwrap();
    }
    place.run(&RESUME).ok();
    for part in ["", "/1-one", "/2-two"] {
        assert_eq!(place.adapter(&format!("run{part}")), place.adapter(&format!("whole{part}")), "{part}");
    }
    for stage in ["1-one", "2-two"] {
        let metrics = |run: &str| place.metrics(&format!("{run}/{stage}"));
        assert_eq!(metrics("run"), metrics("whole"), "{stage}");
    }
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_taken() {
    let place = Place::new();
    whole(&place, &[]);
    let child = start(&place, 5);
    signal(&child, "-TERM");
    finish(child);
    let (newest, state) = checkpoint::newest(&place.path("run")).0.unwrap();
    let name =
        format!("run/checkpoints/{}/optimizer.safetensors", newest.file_name().unwrap().to_str().unwrap());
    let mut bytes = place.read(&name);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    place.write(&name, &bytes);
    let resumed = place.run(&RESUME);
    assert!(resumed.stderr.contains(&format!("step-{} is damaged", state.step)), "{}", resumed.stderr);
    assert!(
        resumed.stderr.contains("optimizer.safetensors does not match the manifest"),
        "{}",
        resumed.stderr
    );
    resumed.ok();
    assert_same_as_whole(&place);
}

#[test]
fn two_runs_do_not_share_a_directory() {
    let place = Place::new();
    recipe(&place, &[]);
    let first = start(&place, 1);
    // The run is stopped so that it cannot end while the second one waits for the lock.
    signal(&first, "-STOP");
    let second = place.run(&RESUME);
    let holder = format!("in use by process {}", first.id());
    signal(&first, "-CONT");
    signal(&first, "-TERM");
    assert_eq!(finish(first).code, Some(143));
    assert_eq!((second.code, second.stdout.as_str()), (Some(2), ""), "{}", second.stderr);
    assert!(second.stderr.contains(&holder), "{}", second.stderr);
}
