//! Reward models from the program: trained, evaluated, scored with, and refused where log-probs are needed.

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::Place;

const TRAIN: [&str; 3] = ["train", "-c", "run.yaml"];

fn place(more: &[(&str, Value)]) -> Place {
    let (place, pairs) = (Place::new(), fixture("pairs.jsonl"));
    place.model("llama");
    let mut settings = vec![
        ("data.eval", json!(pairs.to_str().unwrap())),
        ("objective", json!({"loss_type": "reward", "center_rewards_coefficient": 0.01})),
    ];
    settings.extend_from_slice(more);
    place.recipe(&place.path("model"), &pairs, &settings);
    place
}

#[test]
fn a_reward_model_is_trained_evaluated_and_scored_with() {
    let place = place(&[]);
    let said = place.run(&TRAIN).ok();
    assert!(said.contains("whose chosen completion has the greater reward"), "{said}");
    let metrics = place.metrics("run");
    assert!(metrics.iter().all(|line| line.get("logps/chosen").is_none() && line.get("eval_kl").is_none()));
    let of = ["--base", "model", "--adapter", "run", "--data"];
    let data = fixture("pairs.jsonl");
    let with = |command: &'static str| [&[command], &of[..], &[data.to_str().unwrap()]].concat();
    let lines = place.run(&with("score")).json();
    let reward = |line: &Value, side: &str| line[side].as_f64().unwrap();
    let right = lines.iter().filter(|line| reward(line, "chosen_reward") > reward(line, "rejected_reward"));
    let share = right.count() as f64 / lines.len() as f64;
    let found = &place.run(&[&with("eval")[..], &["--json"]].concat()).json()[0];
    assert_eq!(
        (found["accuracy"].as_f64(), found["pairs"].as_u64()),
        (Some(share), Some(lines.len() as u64))
    );
    let last = metrics.iter().rev().find(|line| line.get("eval_loss").is_some()).unwrap();
    assert_eq!(found["loss"], last["eval_loss"]);
    assert!(found["logp_chosen"].is_null() && found["brier"].as_f64().is_some_and(|brier| brier < 0.5));
    let bins = found["calibration"].as_array().unwrap();
    let pairs: u64 = bins.iter().map(|bin| bin["pairs"].as_u64().unwrap()).sum();
    assert_eq!(Some(pairs), found["pairs"].as_u64());
    let shown = place.run(&with("eval")).ok();
    assert!(shown.contains("calibration") && !shown.contains("perplexity"), "{shown}");
    let card = String::from_utf8(place.read("run/adapter/README.md")).unwrap();
    assert!(card.contains("AutoPeftModelForSequenceClassification") && card.contains("text-classification"));
    place.run(&["inspect", "run/adapter"]).ok();
}

#[test]
fn what_needs_log_probs_refuses_a_reward_model() {
    let place = place(&[("objective", json!({"loss_type": "reward"}))]);
    place.run(&TRAIN).ok();
    for args in [
        &["generate", "--base", "model", "--adapter", "run", "--prompt", "a"][..],
        &["merge", "--base", "model", "--adapter", "run", "--output", "merged"],
        &["export", "--base", "model", "--adapter", "run", "--format", "gguf", "--output", "a.gguf"],
        &[
            "train",
            "-c",
            "run.yaml",
            "--set",
            "objective.loss_type=sigmoid",
            "--set",
            "lora.init_from=run",
            "--set",
            "output_dir=b",
        ],
    ] {
        let ran = place.run(args);
        assert_ne!(ran.code, Some(0), "{args:?}");
        assert!(ran.stderr.contains("reward model"), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn a_resumed_run_ends_with_the_same_bytes() {
    let whole = place(&[("train.save_steps", json!(1)), ("train.save_total_limit", Value::Null)]);
    whole.run(&TRAIN).ok();
    let part = place(&[("train.save_steps", json!(1)), ("train.save_total_limit", Value::Null)]);
    part.run(&TRAIN).ok();
    for step in [4, 5, 6] {
        std::fs::remove_dir_all(part.path(&format!("run/checkpoints/step-{step}"))).unwrap();
    }
    std::fs::remove_dir_all(part.path("run/adapter")).unwrap();
    part.run(&["train", "-c", "run.yaml", "--resume"]).ok();
    // The configurations name bases in different directories.
    assert_eq!(part.adapter("run")[1], whole.adapter("run")[1]);
    assert_eq!(part.metrics("run").last(), whole.metrics("run").last());
}

#[test]
fn margins_that_are_no_numbers_and_stages_that_do_not_fit_are_refused() {
    let place = place(&[]);
    place.write("pairs.jsonl", r#"{"prompt": "a", "chosen": " b", "rejected": " c", "margin": "large"}"#);
    let ran =
        place.run(&["train", "-c", "run.yaml", "--set", "data.train=pairs.jsonl", "--set", "data.eval=null"]);
    assert!(ran.stderr.contains("pairs.jsonl:1: margin must be a number"), "{}", ran.stderr);
    let staged = "model: {base: model}\ndata: {train: pairs.jsonl}\nstages: [reward, dpo]\n";
    place.write("staged.yaml", staged);
    let ran = place.run(&["train", "-c", "staged.yaml"]);
    assert!(ran.stderr.contains("stage reward trains a reward model, and dpo"), "{}", ran.stderr);
}
