//! Runs that are stopped, killed or damaged end with the same bytes as an undisturbed run.
#![cfg(unix)]

use std::process::{Child, Command};
use std::time::Duration;

use dpo_lora::random::Stream;
use dpo_lora::train::checkpoint;
use serde_json::json;

use crate::common::program::{Place, Ran, finish};

const RESUME: [&str; 4] = ["train", "-c", "run.yaml", "--auto-resume"];

/// A run long enough to be interrupted, with dropout, accumulation, evaluation and checkpoints.
fn recipe(place: &Place) {
    place.llama_recipe(&[
        ("data.eval", json!(0.3)),
        ("train.max_steps", json!(60)),
        ("train.eval_steps", json!(7)),
        ("train.save_steps", json!(5)),
        ("train.logging_steps", json!(3)),
        ("train.threads", json!(1)),
    ]);
}

/// Runs the recipe undisturbed, in `whole`.
fn whole(place: &Place) {
    recipe(place);
    place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]).ok();
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
    whole(&place);
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
fn kill(kills: u64) {
    let place = Place::new();
    whole(&place);
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
    kill(6);
}

#[test]
#[ignore = "a minute or two: cargo test --release --test cli -- --ignored"]
fn killed_two_hundred_times_it_ends_with_the_same_bytes() {
    kill(200);
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_taken() {
    let place = Place::new();
    whole(&place);
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
    recipe(&place);
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
