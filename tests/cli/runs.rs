//! `train`: the same run gives the same bytes, and no directory is overwritten by accident.

use std::path::Path;

use dpo_lora::adapter::peft;
use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::{Place, copy};

const TRAIN: [&str; 3] = ["train", "-c", "run.yaml"];

#[test]
fn the_same_run_is_the_same_bytes_whatever_the_threads() {
    let place = Place::new();
    place.llama_recipe(&[]);
    let runs = [("a", "1", "off"), ("b", "1", "auto"), ("c", "2", "auto"), ("d", "2", "off")];
    for (run, threads, cache) in runs {
        let set = [
            format!("output_dir={run}"),
            format!("train.threads={threads}"),
            format!("train.reference_cache={cache}"),
        ];
        let sets = set.iter().flat_map(|set| ["--set", set.as_str()]);
        let ran = place.run(&TRAIN.into_iter().chain(sets).collect::<Vec<_>>());
        // The third run finds the cache that the second one left.
        assert_eq!(ran.stderr.contains("no reference pass will be made"), run == "c", "{}", ran.stderr);
        assert_eq!(ran.ok(), "", "nothing is machine-readable here");
        assert_eq!(place.adapter(run), place.adapter("a"), "{run}");
        assert_eq!(place.metrics(run), place.metrics("a"), "{run}");
    }
    let metrics = place.metrics("a");
    assert_eq!(
        metrics.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
    for key in ["loss", "rewards/margins", "logps/chosen", "grad_norm", "learning_rate", "epoch"] {
        assert!(metrics.iter().all(|line| line[key].is_f64()), "{key}");
    }
    for key in ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"] {
        assert_eq!(metrics[0][key], json!(0.0), "{key} before the first step");
    }
    assert_eq!(metrics[0]["loss"].as_f64().unwrap(), std::f64::consts::LN_2);
    assert!(metrics[5]["rewards/margins"].as_f64().unwrap() != 0.0);
    let other = place.run(&["train", "-c", "run.yaml", "--set", "output_dir=e", "--set", "seed=1"]);
    other.ok();
    assert_ne!(place.adapter("e"), place.adapter("a"));
}

#[test]
fn a_used_directory_is_refused_resumed_or_cleared() {
    let place = Place::new();
    place.llama_recipe(&[]);
    place.run(&TRAIN).ok();
    let first = place.adapter("run");
    let again = place.run(&TRAIN);
    assert_eq!((again.code, again.stdout.as_str()), (Some(2), ""));
    assert!(again.stderr.contains("--resume") && again.stderr.contains("--overwrite"), "{}", again.stderr);
    let metrics = place.metrics("run");
    // Resuming a complete run changes nothing.
    place.run(&["train", "-c", "run.yaml", "--resume"]).ok();
    assert_eq!((place.adapter("run"), place.metrics("run")), (first.clone(), metrics));
    place.run(&["train", "-c", "run.yaml", "--overwrite", "--set", "seed=7"]).ok();
    assert_ne!(place.adapter("run"), first);
    // `--auto-resume` starts the run if there is none yet.
    let fresh = place.run(&["train", "-c", "run.yaml", "--auto-resume", "--set", "output_dir=new"]);
    assert!(fresh.stderr.contains("starts at step 0"), "{}", fresh.stderr);
    assert_eq!((fresh.code, place.adapter("new")), (Some(0), first));
}

#[test]
fn another_configuration_is_not_resumed() {
    let place = Place::new();
    place.llama_recipe(&[]);
    place.run(&TRAIN).ok();
    let before = place.read("run/config.yaml");
    let refused =
        place.run(&["train", "-c", "run.yaml", "--resume", "--set", "lora.r=4", "--set", "objective.beta=1"]);
    assert_eq!(refused.code, Some(2));
    for part in ["lora.r was 3, is 4", "objective.beta was 0.1, is 1.0"] {
        assert!(refused.stderr.contains(part), "{part} in {}", refused.stderr);
    }
    assert_eq!(place.read("run/config.yaml"), before, "a refused resume changes nothing");
    let longer = place.run(&["train", "-c", "run.yaml", "--resume", "--set", "train.max_steps=8"]);
    assert!(longer.stderr.contains("train.max_steps was 6, is 8"), "{}", longer.stderr);
    longer.ok();
    assert_eq!(place.metrics("run").len(), 8);
}

#[test]
fn a_run_does_not_go_back() {
    let place = Place::new();
    place.llama_recipe(&[]);
    place.run(&TRAIN).ok();
    let (adapter, metrics) = (place.adapter("run"), place.metrics("run"));
    let shorter = place.run(&["train", "-c", "run.yaml", "--resume", "--set", "train.max_steps=4"]);
    assert_eq!((shorter.code, shorter.stdout.as_str()), (Some(2), ""), "{}", shorter.stderr);
    for words in
        ["is of step 6, and the run would now have 4", "a run does not go back", "train.max_steps to 6"]
    {
        assert!(shorter.stderr.contains(words), "{words} in {}", shorter.stderr);
    }
    assert_eq!((place.adapter("run"), place.metrics("run")), (adapter, metrics));
}

#[test]
fn evaluation_keeps_the_best_and_stops_early() {
    let place = Place::new();
    // A learning rate that ruins the adapter after a while.
    place.llama_recipe(&[
        ("data.eval", json!(0.3)),
        ("train.max_steps", json!(40)),
        ("train.learning_rate", json!(0.2)),
        ("train.lr_scheduler_type", json!("constant")),
        ("train.warmup_steps", json!(0)),
        ("train.eval_steps", json!(1)),
        ("train.early_stopping_patience", json!(3)),
        ("train.load_best_model_at_end", json!(true)),
        ("train.save_total_limit", json!(1)),
    ]);
    let ran = place.run(&TRAIN);
    assert!(ran.stderr.contains("stopped early"), "{}", ran.stderr);
    let evaluations: Vec<(u64, f64)> = place
        .metrics("run")
        .iter()
        .filter_map(|line| Some((line["step"].as_u64()?, line["eval_loss"].as_f64()?)))
        // The evaluation before the first step belongs to no checkpoint.
        .filter(|(step, _)| *step > 0)
        .collect();
    let best = evaluations.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert_eq!(evaluations.last().unwrap().0, best.0 + 3, "{evaluations:?}");
    let kept = place.read(&format!("run/checkpoints/step-{}/adapter/adapter_model.safetensors", best.0));
    assert_eq!(kept, place.adapter("run")[1], "adapter/ is the best");
    // What `train` reported of held-out pairs is printed again for a user who compares before and after.
    assert!(ran.ok().starts_with("held-out accuracy: before "));
}

#[test]
fn a_slip_in_set_names_the_nearest_key() {
    let place = Place::new();
    place.llama_recipe(&[]);
    let ran = place.run(&["train", "-c", "run.yaml", "--set", "train.learning_rte=1"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    assert!(ran.stderr.contains("did you mean train.learning_rate?"), "{}", ran.stderr);
}

#[test]
fn a_dry_run_checks_everything_and_writes_nothing() {
    let place = Place::new();
    place.llama_recipe(&[]);
    let ran = place.run(&["train", "-c", "run.yaml", "--dry-run"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(!place.path("run").exists(), "{}", ran.stderr);
    place.llama_recipe(&[("data.train", json!("nowhere.jsonl"))]);
    assert_eq!(place.run(&["train", "-c", "run.yaml", "--dry-run"]).code, Some(2));
}

#[test]
fn a_base_of_the_hub_is_pinned_to_its_commit() {
    let place = Place::new();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = "hf/hub/models--owner--name";
    let snapshot = place.path(&format!("{repository}/snapshots/{commit}"));
    copy(&fixture("models/llama"), &snapshot);
    std::fs::create_dir_all(place.path(&format!("{repository}/refs"))).unwrap();
    place.write(&format!("{repository}/refs/main"), commit);
    place.recipe(Path::new("owner/name"), &fixture("pairs.jsonl"), &[("train.max_steps", 1.into())]);
    let train = |args: &[&str]| {
        let mut command = place.command(&[&["train", "-q", "-c"], args].concat());
        let ran = command.env("HF_HOME", place.path("hf")).env("HF_HUB_OFFLINE", "1").output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    train(&["run.yaml"]);
    let config = String::from_utf8(place.read("run/config.yaml")).unwrap();
    assert!(config.contains(&format!("base: owner/name@{commit}")), "{config}");
    let metadata = peft::metadata(&place.path("run/adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(metadata[peft::REVISION_KEY], commit);
    let adapter: Value = serde_json::from_slice(&place.read("run/adapter/adapter_config.json")).unwrap();
    assert_eq!(adapter["base_model_name_or_path"], "owner/name");
    // The resolved configuration finds the commit even after the branch has moved.
    place.write(&format!("{repository}/refs/main"), "f".repeat(40));
    train(&["run/config.yaml", "--set", "output_dir=again"]);
    assert_eq!(place.adapter("run"), place.adapter("again"));
}

#[test]
fn the_resolved_configuration_reproduces_the_run() {
    let place = Place::new();
    place.llama_recipe(&[]);
    place.run(&TRAIN).ok();
    place.run(&["train", "-c", "run/config.yaml", "--set", "output_dir=again"]).ok();
    assert_eq!(place.adapter("again"), place.adapter("run"));
    let _: Value = serde_yaml::from_slice(&place.read("again/config.yaml")).unwrap();
}
