//! Runs that diverge end with an error, and the last good state is kept.

use dpo_lora::train::checkpoint;
use serde_json::json;

use crate::common::program::Place;

const TRAIN: [&str; 3] = ["train", "-c", "run.yaml"];

/// A run whose learning rate ruins the adapter in the first step.
fn ruined(place: &Place, learning_rate: f64, max_steps: u64) {
    place.llama_recipe(&[
        ("train.learning_rate", json!(learning_rate)),
        ("train.lr_scheduler_type", json!("constant")),
        ("train.warmup_steps", json!(0)),
        ("train.max_steps", json!(max_steps)),
        ("train.save_steps", json!(1)),
    ]);
}

#[test]
fn a_ruined_adapter_is_neither_written_nor_kept() {
    // Numbers that overflow f32 at once; numbers that are finite but useless; and a run with too few steps to give up.
    for (learning_rate, max_steps) in [(1e39, 5), (1e30, 5), (1e30, 2), (1e30, 1), (1e20, 3)] {
        let place = Place::new();
        ruined(&place, learning_rate, max_steps);
        let ran = place.run(&TRAIN);
        let case = format!("{learning_rate:e}, {max_steps} steps: {}", ran.stderr);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{case}");
        assert!(ran.stderr.contains("train.learning_rate"), "{case}");
        assert!(ran.stderr.contains("no checkpoint was written before"), "{case}");
        assert!(!place.path("run/adapter").exists(), "{case}");
        assert!(checkpoint::newest(&place.path("run")).0.is_none(), "{case}");
    }
}

#[test]
fn the_last_good_checkpoint_is_kept_and_loads() {
    let place = Place::new();
    place.llama_recipe(&[
        ("train.learning_rate", json!(1e30)),
        ("train.lr_scheduler_type", json!("constant_with_warmup")),
        ("train.warmup_steps", json!(1)),
        ("train.max_steps", json!(9)),
        ("train.save_steps", json!(1)),
        ("train.save_total_limit", json!(1)),
    ]);
    // The first step has learning rate 0, so its checkpoint is good; the second step ruins the adapter.
    let ran = place.run(&TRAIN);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("run/checkpoints/step-1 is the last good checkpoint"), "{}", ran.stderr);
    assert!(!place.path("run/adapter").exists());
    let base = place.read("run.yaml");
    let base: serde_json::Value = serde_yaml::from_slice(&base).unwrap();
    let base = base["model"]["base"].as_str().unwrap();
    let pairs = base.replace("models/llama", "pairs.jsonl");
    let kept = place.path("run/checkpoints/step-1/adapter");
    let scores =
        place.run(&["score", "--base", base, "--adapter", kept.to_str().unwrap(), "--data", &pairs]).json();
    assert!(!scores.is_empty() && scores.iter().all(|score| score["chosen_logp"].is_f64()));
}

#[test]
fn a_run_that_ends_on_a_skipped_step_fails_and_says_where_its_adapter_is() {
    let place = Place::new();
    ruined(&place, 1e-3, 4);
    place.run(&TRAIN).ok();
    place.run(&["train", "-c", "run.yaml", "--resume"]).ok();
    // The state that a run leaves whose last step was skipped.
    let state = place.path("run/checkpoints/step-4/state.json");
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    value["skipped_in_a_row"] = json!(1);
    let text = serde_json::to_vec_pretty(&value).unwrap();
    std::fs::write(&state, &text).unwrap();
    place.edit("run/checkpoints/step-4/manifest.json", |manifest| {
        manifest["state.json"] = json!(blake3::hash(&text).to_hex().to_string());
    });
    let ran = place.run(&["train", "-c", "run.yaml", "--resume"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("the last 1 step(s) had no usable gradient"), "{}", ran.stderr);
    assert!(ran.stderr.contains("run/checkpoints/step-4 is the last good checkpoint"), "{}", ran.stderr);
}

/// 80 layers of 8192 features at rank 65535: some 20 TB of adapter, gradient and moments, more than any machine has.
#[test]
fn an_adapter_larger_than_memory_is_refused_before_it_is_made() {
    let place = Place::new();
    place.model("llama");
    place.edit("model/config.json", |config| {
        for (key, value) in [("hidden_size", 8192), ("intermediate_size", 28672), ("num_hidden_layers", 80)] {
            config[key] = json!(value);
        }
    });
    place.llama_recipe(&[("model.base", json!("model")), ("lora.r", json!(65535))]);
    let ran = place.run(&TRAIN);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    for part in ["the run needs about", "GB are available", "Lower lora.r"] {
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
    assert!(!place.path("run").exists());
}
