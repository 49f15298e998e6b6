//! Flags and YAML: the exit code is 2.

use serde_json::json;

use super::{refused, train_refused};
use crate::common::fixture;
use crate::common::program::Place;

fn with_setting(key: &str, value: serde_json::Value, parts: &[&str]) {
    let place = Place::new();
    place.llama_recipe(&[(key, value)]);
    train_refused(&place, 2, parts);
}

#[test]
fn keys_and_values() {
    with_setting(
        "train.learning_rte",
        json!(1),
        &["run.yaml:", ": train.learning_rte", "did you mean learning_rate?"],
    );
    with_setting("train.learning_rate", json!("fast"), &["train.learning_rate is fast", "a number"]);
    with_setting(
        "train.learning_rate",
        json!("1e-5"),
        &["train.learning_rate is the text \"1e-5\"", "a number; remove the quotes"],
    );
    with_setting(
        "train.shuffle",
        json!("false"),
        &["train.shuffle is the text \"false\"", "remove the quotes"],
    );
    with_setting("train.learning_rate", json!(-1), &["train.learning_rate is -1"]);
    with_setting("train.max_steps", json!(0), &["train.max_steps is 0"]);
    with_setting("lora.r", json!(0), &["lora.r is 0", "1 or more"]);
    with_setting("lora.r", json!(1u64 << 50), &["lora.r is 1125899906842624", "65536"]);
    with_setting(
        "lora.rank_pattern",
        json!({"q_proj": u64::MAX >> 1}),
        &["lora.rank_pattern.q_proj is 9223372036854775807"],
    );
    with_setting("train.threads", json!(100_000), &["train.threads is 100000", "1024"]);
    with_setting("objective.beta", json!(0), &["objective.beta is 0"]);
    with_setting("objective.loss_type", json!("rrhf"), &["objective.loss_type is rrhf", "sigmoid"]);
    with_setting("model.dtype", json!("int4"), &["model.dtype", "int4", "bf16"]);
    if !dpo_lora::device::cuda::has_driver() {
        with_setting("model.device", json!("cuda"), &["no NVIDIA driver", "driver 550", "--device cpu"]);
        // The error comes before the base is looked up, even on the Hub, and has one line.
        let place = Place::new();
        let asked = ["score", "--base", "owner/nowhere", "--data", "nowhere.jsonl", "--device", "cuda:1"];
        let said = refused(&place, &asked, 2, &["no NVIDIA driver"]);
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    with_setting("data.max_length", json!(1), &["data.max_length is 1"]);
    with_setting("data.eval", json!(1.5), &["data.eval is 1.5"]);
}

#[test]
fn modules_that_do_not_exist() {
    with_setting("lora.target_modules", json!(["q_prj"]), &["target_modules", "q_prj", "q_proj"]);
    with_setting("lora.target_modules", json!("(q_proj"), &["target_modules", "(q_proj"]);
    with_setting("lora.target_modules", json!("nothing.*"), &["target_modules", "nothing.*"]);
    with_setting("lora.rank_pattern", json!({"q_prj": 4}), &["rank_pattern", "q_prj"]);
}

#[test]
fn files_of_the_configuration() {
    let place = Place::new();
    refused(&place, &["train", "-c", "nowhere.yaml"], 2, &["nowhere.yaml"]);
    place.write("run.yaml", "model: {base: [}\n");
    train_refused(&place, 2, &["run.yaml", "line 1"]);
    place.write("run.yaml", "train: {max_steps: 1}\nmodel:\n  base: x\ntrain:\n  max_steps: 3\n");
    train_refused(&place, 2, &["run.yaml:4: the key train stands twice, first in line 1"]);
    place.write("run.yaml", "");
    train_refused(&place, 2, &["model.base is missing", "data.train is missing"]);
    place.write("run.yaml", b"\xff\xfe");
    train_refused(&place, 2, &["run.yaml", "UTF-8"]);
    place.llama_recipe(&[("data.chat_template", json!("nowhere.jinja"))]);
    train_refused(&place, 2, &["nowhere.jinja"]);
}

#[test]
fn flags() {
    let place = Place::new();
    place.llama_recipe(&[]);
    let base = fixture("models/llama");
    let base = base.to_str().unwrap();
    let adapter = &format!("{base}/adapters/plain");
    for (args, part) in [
        (vec!["train", "-c", "run.yaml", "--set", "train.max_steps"], "section.key=value"),
        (vec!["train", "-c", "run.yaml", "--resume", "--overwrite"], "--overwrite"),
        (vec!["generate", "--base", base, "--prompt", "x", "--temperature", "-1"], "0 (greedy) or more"),
        (vec!["generate", "--base", base, "--prompt", "x", "--compare"], "--adapter"),
        (vec!["generate", "--base", base, "--prompt", "x", "--stop", ""], "must not be empty"),
        (vec!["generate", "--base", base, "--prompt", "x", "--threads", "99999"], "1024"),
        (vec!["generate", "--base", base, "--prompt", "x", "--top-p", "1e-300"], "(0, 1]"),
        (vec!["score", "--base", adapter, "--data", "run.yaml"], "is an adapter, not a base"),
        (vec!["score", "--base", ".", "--data", "run.yaml"], "holds no config.json"),
        (vec!["score", "--base", "nowhere", "--data", "run.yaml"], "there is no directory nowhere"),
        (vec!["score", "--base", "run.yaml", "--data", "run.yaml"], "run.yaml is a file"),
        (vec!["inspect", "."], "neither a base"),
        (vec!["merge", "--base", base, "--output", "o"], "--adapter"),
        (vec!["frobnicate"], "frobnicate"),
    ] {
        refused(&place, &args, 2, &[part]);
    }
}

#[test]
fn places_that_cannot_be_written() {
    let place = Place::new();
    place.write("taken", "a file, not a directory");
    place.llama_recipe(&[("output_dir", json!("taken/run"))]);
    refused(&place, &["train", "-c", "run.yaml"], 1, &["cannot write", "taken/run"]);
    place.write("pairs.jsonl", r#"{"prompt": "a", "chosen": " b", "rejected": " c"}"#);
    let (base, data) = (fixture("models/llama"), "pairs.jsonl");
    let base = base.to_str().unwrap();
    let adapter = format!("{base}/adapters/plain");
    let score = ["score", "--base", base, "--data", data, "--output", "taken/scores.jsonl"];
    refused(&place, &score, 1, &["cannot write", "taken"]);
    let merge = ["merge", "--base", base, "--adapter", &adapter, "--output", "taken/merged"];
    refused(&place, &merge, 1, &["cannot write", "taken"]);
    assert_eq!(place.read("taken"), b"a file, not a directory");
}
