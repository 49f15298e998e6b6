//! `train` with `stages`: what it writes, what it refuses, and that it ends with the same bytes however often it is killed.
#![cfg(unix)]

use std::time::Duration;

use dpo_lora::random::Stream;
use serde_json::json;

use crate::common::fixture;
use crate::common::program::{Place, finish};

const TRAIN: [&str; 3] = ["train", "-c", "run.yaml"];
const RESUME: [&str; 4] = ["train", "-c", "run.yaml", "--resume"];
const AGAIN: [&str; 4] = ["train", "-c", "run.yaml", "--auto-resume"];

/// Fine-tuning on the chosen answers, then DPO, which continues or stacks, and then DPO on top of both.
fn recipe(place: &Place, second: &str) {
    let stages = json!([
        "preferred_ft",
        {"name": "dpo", "adapter": second, "objective": {"beta": 0.3}, "train": {"max_steps": 5, "eval_steps": 2}},
        {"name": "again", "adapter": "stack", "lora": {"r": 2}, "objective": {"loss_type": "ipo"}, "train": {"max_steps": 3}},
    ]);
    place.llama_recipe(&[
        ("data.eval", json!(0.3)),
        ("train.save_steps", json!(2)),
        ("train.threads", json!(1)),
        ("stages", stages),
    ]);
}

/// The files of every stage and of the whole run, without what the clock says.
fn assert_same(place: &Place, run: &str) {
    assert_eq!(place.adapter(run), place.adapter("whole"));
    for stage in ["1-preferred_ft", "2-dpo", "3-again"] {
        let (run, whole) = (format!("{run}/{stage}"), format!("whole/{stage}"));
        assert_eq!(place.adapter(&run), place.adapter(&whole), "{run}");
        assert_eq!(place.metrics(&run), place.metrics(&whole), "{run}");
    }
}

fn whole(place: &Place, second: &str) {
    recipe(place, second);
    place.run(&[&TRAIN[..], &["--set", "output_dir=whole"]].concat()).ok();
}

#[test]
fn killed_at_random_moments_the_stages_end_with_the_same_bytes() {
    let place = Place::new();
    whole(&place, "continue");
    let moments = Stream::new(3, "kills");
    let mut kills = 0;
    for kill in 0..40 {
        let mut child = place.command(&AGAIN).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + moments.below(kill, 400) as u64));
        if child.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        child.kill().unwrap();
        finish(child);
        kills += 1;
    }
    assert!(kills > 0, "the run was never killed");
    place.run(&RESUME).ok();
    assert_same(&place, "run");
}

/// What is left after a kill between two stages, and before the last adapter is written.
#[test]
fn a_run_that_ends_between_two_stages_goes_on_with_the_next() {
    let place = Place::new();
    whole(&place, "stack");
    let stages = ["1-preferred_ft", "2-dpo", "3-again"];
    for done in 0..=stages.len() {
        let _ = std::fs::remove_dir_all(place.path("run"));
        std::fs::create_dir(place.path("run")).unwrap();
        place.write("run/config.yaml", place.read("whole/config.yaml"));
        for stage in &stages[..done] {
            crate::common::program::copy(
                &place.path(&format!("whole/{stage}")),
                &place.path(&format!("run/{stage}")),
            );
        }
        let ran = place.run(&RESUME);
        assert_eq!(ran.stderr.matches("finished before").count(), done.min(2), "{}", ran.stderr);
        ran.ok();
        assert_same(&place, "run");
    }
}

#[test]
fn the_result_is_one_adapter_that_is_the_stages_together() {
    let place = Place::new();
    whole(&place, "continue");
    let (base, data) = (fixture("models/llama"), fixture("pairs.jsonl"));
    let (base, data) = (base.to_str().unwrap(), data.to_str().unwrap());
    let score = |adapters: &[&str]| {
        let named = adapters.iter().flat_map(|adapter| ["--adapter", adapter]);
        let args: Vec<&str> = ["score", "--base", base, "--data", data].into_iter().chain(named).collect();
        place.run(&args).json()
    };
    let together = score(&["whole/2-dpo/adapter", "whole/3-again/adapter"]);
    let result = score(&["whole/adapter"]);
    assert_eq!(together.len(), result.len());
    for (a, b) in together.iter().zip(&result) {
        for key in ["chosen_logp", "rejected_logp"] {
            let of = |line: &serde_json::Value| line[key].as_f64().unwrap();
            assert!((of(a) - of(b)).abs() < 1e-4, "{key}: {a} {b}");
        }
    }
    assert_ne!(together, score(&["whole/2-dpo/adapter"]), "the last stage changes something");
    // A stage that continues begins where the one before ended: its rewards are 0 before its first step.
    let first = &place.metrics("whole/2-dpo")[0];
    assert_eq!(first["eval_rewards/margins"].as_f64(), Some(0.0), "{first}");
    // Preferred-FT passes only the chosen answers through the model.
    let trained: Vec<_> =
        place.metrics("whole/1-preferred_ft").into_iter().filter(|l| l["loss"].is_f64()).collect();
    assert!(
        !trained.is_empty() && trained.iter().all(|line| line["logps/rejected"].is_null()),
        "{trained:?}"
    );
}

#[test]
fn a_dry_run_lists_the_stages_and_writes_nothing() {
    let place = Place::new();
    recipe(&place, "stack");
    let ran = place.run(&[&TRAIN[..], &["--dry-run"]].concat());
    for part in [
        "stage 1 of 3: preferred_ft (sft)",
        "stage 2 of 3: dpo (sigmoid), which trains a new adapter on top of preferred_ft",
        "stage 3 of 3: again (ipo)",
        "nothing was written",
    ] {
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
    ran.ok();
    assert!(!place.path("run").exists());
}

/// The numbers of trained parameters that a dry run states.
fn parameters(text: &str) -> Vec<usize> {
    let before = text.split(" parameters trained").filter_map(|part| part.rsplit(' ').next()?.parse().ok());
    before.collect()
}

#[test]
fn a_stage_after_pissa_is_described_with_the_adapter_that_it_gets() {
    let place = Place::new();
    let stages = json!([{"name": "sft", "lora": {"init_lora_weights": "pissa"}}, "dpo"]);
    place.llama_recipe(&[("train.max_steps", json!(2)), ("stages", stages)]);
    let described = |more: &[&str]| {
        let ran = place.run(&[&TRAIN[..], &["--dry-run"], more].concat());
        let found = parameters(&ran.stderr);
        ran.ok();
        found
    };
    let before = described(&[]);
    let [first, second] = before[..] else { panic!("{before:?}") };
    assert_eq!(second, 2 * first);
    place.run(&TRAIN).ok();
    // The second stage is unfinished, and its adapter is read.
    std::fs::remove_dir_all(place.path("run/2-dpo")).unwrap();
    std::fs::remove_dir_all(place.path("run/adapter")).unwrap();
    assert_eq!(described(&["--resume"]), [second]);
}

#[test]
fn a_later_stage_that_cannot_begin_stops_the_run_before_the_first() {
    let place = Place::new();
    let stages = json!(["sft", {"name": "dpo", "adapter": "stack", "lora": {"target_modules": ["lm_haed"]}}]);
    place.llama_recipe(&[("train.max_steps", json!(2)), ("stages", stages)]);
    let ran = place.run(&TRAIN);
    assert!(ran.stderr.contains("stage dpo: ") && ran.stderr.contains("lm_haed"), "{}", ran.stderr);
    assert_eq!(ran.code, Some(2));
    assert!(!place.path("run/1-sft").exists(), "nothing was trained");
}

#[test]
fn sft_is_evaluated_on_the_chosen_answers_however_they_are_held_out() {
    let place = Place::new();
    let data = fixture("pairs.jsonl");
    for (name, eval) in [("file", json!(data)), ("part", json!(0.5))] {
        place.llama_recipe(&[
            ("output_dir", json!(name)),
            ("data.eval", eval),
            ("objective.loss_type", json!("sft")),
            ("train.max_steps", json!(1)),
        ]);
        place.run(&TRAIN).ok();
        let lines = place.metrics(name);
        let evaluated = lines.iter().find(|line| line["eval_loss"].is_f64()).unwrap();
        assert!(evaluated["eval_logps/rejected"].is_null(), "{name}: {evaluated}");
    }
}

#[test]
fn another_recipe_in_the_same_directory_is_refused() {
    let place = Place::new();
    whole(&place, "continue");
    let resumed = |settings: &[&str]| {
        let args: Vec<&str> = RESUME.into_iter().chain(["--set", "output_dir=whole"]).collect();
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        place.run(&args.into_iter().chain(settings).collect::<Vec<_>>())
    };
    for (settings, part) in [
        (vec!["stages.preferred_ft.train.max_steps=9"], "stage preferred_ft is finished"),
        (vec!["stages.dpo.objective.beta=0.5"], "objective.beta was 0.3, is 0.5"),
        (vec!["stages.dop.train.max_steps=9"], "there is no stage dop"),
        (vec!["seed=7"], "seed was 42, is 7"),
    ] {
        let ran = resumed(&settings);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
    // The last stage may go on.
    resumed(&["stages.again.train.max_steps=4"]).ok();
    let single = Place::new();
    single.llama_recipe(&[]);
    let moved = place.path("whole");
    let output = format!("output_dir={}", moved.display());
    let ran = single.run(&[&RESUME[..], &["--set", &output]].concat());
    assert!(ran.code == Some(2) && ran.stderr.contains("a run with stages"), "{}", ran.stderr);
    let fresh = place.run(&[&TRAIN[..], &["--set", "output_dir=whole"]].concat());
    assert!(fresh.code == Some(2) && fresh.stderr.contains("--overwrite"), "{}", fresh.stderr);
    place.run(&[&TRAIN[..], &["--overwrite", "--set", "output_dir=whole"]].concat()).ok();
}
