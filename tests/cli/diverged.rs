//! Runs that diverge end with an error, and the last good state is kept.

use dpo_lora::train::checkpoint;
use serde_json::json;

use crate::common::fixture;
use crate::common::program::{Place, copy};

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
fn an_evaluation_without_numbers_names_the_learning_rate_as_well() {
    let evaluated = ["--set", "data.eval=0.3", "--set", "train.eval_steps=1"];
    let place = Place::new();
    ruined(&place, 1e30, 5);
    let ran = place.run(&[&TRAIN[..], &evaluated].concat());
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
    for part in [
        "the adapter cannot be used after step 1: ",
        "has log-probs that are not finite (chosen ",
        "train.learning_rate of 1e30 is too high",
        "no checkpoint was written before",
    ] {
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("--dtype") && !place.path("run/adapter").exists(), "{}", ran.stderr);
    // The first step has the learning rate 0, and the second ruins the adapter.
    let warmed = ["--set", "train.lr_scheduler_type=constant_with_warmup", "--set", "train.warmup_steps=1"];
    let ran = place.run(&[&TRAIN[..], &evaluated, &warmed, &["--overwrite"]].concat());
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    for part in ["after step 2: ", "run/checkpoints/step-1 is the last good checkpoint"] {
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
}

#[test]
fn what_reads_a_useless_adapter_of_an_f32_base_does_not_ask_for_f32() {
    let place = Place::new();
    ruined(&place, 1e-3, 1);
    place.run(&TRAIN).ok();
    let weights = "run/adapter/adapter_model.safetensors";
    let mut bytes = place.read(weights);
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&1e30f32.to_le_bytes()));
    place.write(weights, &bytes);
    let (base, pairs) = (fixture("models/llama"), fixture("pairs.jsonl"));
    let (base, pairs) = (base.to_str().unwrap(), pairs.to_str().unwrap());
    for command in ["eval", "score"] {
        let ran = place.run(&[command, "--base", base, "--adapter", "run/adapter", "--data", pairs]);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        let said = "pairs.jsonl:1: has log-probs that are not finite";
        assert!(ran.stderr.contains(said) && ran.stderr.contains("the adapter is damaged"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("--dtype"), "{}", ran.stderr);
    }
    // Before its first step a run blames what it begins with.
    copy(&place.path("run/adapter"), &place.path("ruin"));
    let more = ["--overwrite", "--set", "lora.init_from=ruin", "--set", "data.eval=0.3"];
    let ran = place.run(&[&TRAIN[..], &more].concat());
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let said = "the base or the adapter is damaged";
    assert!(ran.stderr.contains(said) && !ran.stderr.contains("--dtype"), "{}", ran.stderr);
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
