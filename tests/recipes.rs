//! Every configuration in `configs/` trains two steps from the built program, on the embedded base and a few records.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::program::Place;
use serde_json::{Value, json};

fn configs() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    paths
}

/// Forty records of the embedded data, as pairs and as judged answers.
fn write_data(place: &Place) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny-reviews/train.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let pairs: Vec<Value> = text.lines().take(40).map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines = |rows: &[Value]| rows.iter().map(|row| format!("{row}\n")).collect::<String>();
    let judged = |(at, pair): (usize, &Value)| {
        let side = if at % 2 == 0 { "chosen" } else { "rejected" };
        json!({"prompt": pair["prompt"], "completion": pair[side], "label": at % 2 == 0})
    };
    place.write("judged.jsonl", lines(&pairs.iter().enumerate().map(judged).collect::<Vec<_>>()));
    place.write("pairs.jsonl", lines(&pairs));
}

#[test]
fn every_recipe_trains() {
    let place = Place::new();
    write_data(&place);
    // The adapter that a recipe stands on.
    let first = ["train", "-q", "--base", "tiny-reviews", "--data", "pairs.jsonl", "--output", "sft"];
    place.run(&[&first[..], &["--set", "train.max_steps=1", "--set", "model.device=cpu"]].concat()).ok();
    assert!(configs().len() >= 20);
    for path in configs() {
        let text = std::fs::read_to_string(&path).unwrap();
        let config: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
        let data = if config["objective"]["loss_type"] == "kto" { "judged.jsonl" } else { "pairs.jsonl" };
        let mut settings = vec![
            "model.base=tiny-reviews".to_string(),
            "model.device=cpu".into(),
            format!("data.train={data}"),
            "data.max_length=256".into(),
            "train.max_steps=2".into(),
            "train.per_device_train_batch_size=8".into(),
            "train.gradient_accumulation_steps=2".into(),
            "train.logging_steps=1".into(),
            "train.sample_prompts=0".into(),
        ];
        let is_set = |section: &str, key: &str| !matches!(&config[section][key], serde_yaml::Value::Null);
        if is_set("data", "eval") {
            settings.push("data.eval=0.1".into());
        }
        if is_set("data", "max_prompt_length") {
            settings.push("data.max_prompt_length=128".into());
        }
        if is_set("model", "adapter") {
            settings.push("model.adapter=sft/adapter".into());
        }
        let mut args = vec!["train", "-q", "-c", path.to_str().unwrap(), "--output", "run", "--overwrite"];
        settings.iter().for_each(|setting| args.extend(["--set", setting]));
        let ran = place.run(&args);
        let name = path.file_name().unwrap().to_string_lossy();
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.stderr);
        let run = if is_staged(&config) { "run/2-dpo" } else { "run" };
        assert!(!place.adapter("run")[1].is_empty(), "{name}");
        let steps = place.metrics(run).iter().filter(|line| line["loss"].is_number()).count();
        assert_eq!(steps, 2, "{name}");
    }
}

fn is_staged(config: &serde_yaml::Value) -> bool {
    !matches!(config["stages"], serde_yaml::Value::Null)
}
