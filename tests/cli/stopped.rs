//! Ctrl-C: the first press is answered at once, the second stops, and nothing temporary is left.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use dpo_lora::train::checkpoint;
use serde_json::json;

use crate::common::program::{Place, finish};

/// A run whose steps take seconds.
fn slow(place: &Place) {
    let settings = [
        ("train.max_steps", json!(3)),
        ("train.per_device_train_batch_size", json!(8)),
        ("train.gradient_accumulation_steps", json!(60)),
        ("train.threads", json!(1)),
    ];
    place.recipe("tiny-reviews".as_ref(), "tiny-reviews/train.jsonl".as_ref(), &settings);
}

fn interrupt(child: &Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
}

/// Reads standard error up to a line that contains `words`; returns that line.
fn wait_for(said: &mut impl BufRead, words: &str) -> String {
    loop {
        let mut line = String::new();
        assert!(said.read_line(&mut line).unwrap() > 0, "the program ended before it said {words:?}");
        if line.contains(words) {
            return line;
        }
    }
}

/// Starts the run and waits until its first step has begun.
fn begun(place: &Place) -> (Child, BufReader<std::process::ChildStderr>) {
    slow(place);
    let mut child = place.command(&["train", "-c", "run.yaml"]).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    wait_for(&mut said, "trained parameters");
    std::thread::sleep(Duration::from_millis(300));
    (child, said)
}

/// Temporary files anywhere below a directory.
fn litter(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let inner = if path.is_dir() { litter(&path) } else { Vec::new() };
            inner.into_iter().chain(name.starts_with(".tmp-").then_some(name)).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn the_first_press_is_answered_at_once_and_the_step_is_saved() {
    let place = Place::new();
    let (child, mut said) = begun(&place);
    let pressed = Instant::now();
    interrupt(&child);
    let answer = wait_for(&mut said, "press again");
    assert_eq!(answer, "finishing step 1, then saving; press again to stop now\n");
    assert!(pressed.elapsed() < Duration::from_secs(2), "{:?}", pressed.elapsed());
    let end = wait_for(&mut said, "interrupted");
    assert!(end.contains("after step 1 of 3; run/checkpoints/step-1 is kept"), "{end}");
    assert!(end.contains("dpo-lora train --resume run"), "{end}");
    assert_eq!(finish(child).code, Some(130));
    checkpoint::open(&place.path("run/checkpoints/step-1")).unwrap();
    // What it says to do works, and the answer of the next run is about its own step.
    let mut child = place.command(&["train", "--resume", "run"]).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    wait_for(&mut said, "resumed from run/checkpoints/step-1");
    std::thread::sleep(Duration::from_millis(600));
    interrupt(&child);
    assert!(wait_for(&mut said, "press again").starts_with("finishing step 2,"));
    // The second press says what is kept.
    interrupt(&child);
    let end = wait_for(&mut said, "stopped");
    assert!(end.contains("run/checkpoints/step-1 is kept") && end.contains("train --resume run"), "{end}");
    assert_eq!(finish(child).code, Some(130));
    assert_eq!(litter(&place.path("")), Vec::<String>::new());
}

#[test]
fn the_second_press_stops_before_the_step_is_over() {
    let place = Place::new();
    let (child, mut said) = begun(&place);
    interrupt(&child);
    wait_for(&mut said, "press again");
    let pressed = Instant::now();
    interrupt(&child);
    let end = wait_for(&mut said, "stopped");
    assert!(end.contains("before the first checkpoint") && end.contains("--overwrite"), "{end}");
    assert_eq!(finish(child).code, Some(130));
    assert!(pressed.elapsed() < Duration::from_secs(2), "{:?}", pressed.elapsed());
    assert!(!place.path("run/adapter").exists());
    assert_eq!(litter(&place.path("")), Vec::<String>::new());
}

#[test]
fn every_long_command_stops_at_once_and_leaves_nothing() {
    let data = ["--base", "tiny-reviews", "--data", "tiny-reviews/train.jsonl"];
    let long = ["--prompts", "tiny-reviews/prompts.jsonl", "--max-new-tokens", "500", "--n", "64"];
    let commands = [
        [&["eval"], &data[..]].concat(),
        [&["score", "--output", "out/scores.jsonl"], &data[..]].concat(),
        [&["generate", "--base", "tiny-reviews"], &long[..]].concat(),
        [&["data", "check", "tiny-reviews/train.jsonl"], &data[..2]].concat(),
    ];
    for command in commands {
        let place = Place::new();
        std::fs::create_dir(place.path("out")).unwrap();
        let child = place.command(&command).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(700));
        interrupt(&child);
        let ran = finish(child);
        // The check of data is over before.
        if ran.code != Some(0) {
            assert_eq!(ran.code, Some(130), "{command:?}: {}", ran.stderr);
            assert!(ran.stderr.contains("interrupted"), "{command:?}: {}", ran.stderr);
        } else {
            assert!(command[0] == "data", "{command:?} was over too soon");
        }
        assert_eq!(litter(&place.path("")), Vec::<String>::new(), "{command:?}");
        assert_eq!(std::fs::read_dir(place.path("out")).unwrap().count(), 0, "{command:?}");
    }
}

#[test]
fn a_run_that_says_that_it_is_saving_a_step_ends_with_that_step() {
    let mut seen = 0;
    for moment in 0..8 {
        let place = Place::new();
        place.llama_recipe(&[
            ("train.max_steps", json!(100_000)),
            ("train.save_steps", json!(1)),
            ("train.threads", json!(1)),
        ]);
        let mut child = place.command(&["train", "-c", "run.yaml"]).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        wait_for(&mut said, "trained parameters");
        std::thread::sleep(Duration::from_millis(100 + 17 * moment));
        interrupt(&child);
        let answer = wait_for(&mut said, "press again");
        let end = wait_for(&mut said, "interrupted");
        // Most of the time between two steps is that of the checkpoint.
        if let Some(step) = answer.strip_prefix("saving step ").and_then(|rest| rest.split(';').next()) {
            assert!(end.contains(&format!("after step {step} of")), "{answer}{end}");
            seen += 1;
        }
        assert_eq!(finish(child).code, Some(130));
    }
    assert!(seen > 0, "no interrupt came while a step was saved");
}
