//! `merge`: the merged model is the base with its adapter.

use serde_json::Value;

use crate::common::fixture;
use crate::common::program::{Place, copy};

fn text(path: &str) -> String {
    fixture(path).to_str().unwrap().to_string()
}

fn logps(lines: &[Value]) -> Vec<f64> {
    let sides = ["chosen_logp", "rejected_logp"];
    lines.iter().flat_map(|line| sides.map(|side| line[side].as_f64().unwrap())).collect()
}

fn assert_near(merged: &[f64], want: &[f64], bound: f64, what: &str) {
    assert_eq!(merged.len(), want.len());
    for (a, b) in merged.iter().zip(want) {
        assert!((a - b).abs() <= bound * b.abs(), "{what}: {a} against {b}");
    }
}

#[test]
fn merged_scores_as_base_and_adapter_do() {
    // A plain one, transposed weights (Conv1D), fused projections, tied and scaled embeddings, several files.
    for name in ["llama", "gpt2", "phi3", "gemma2", "llama-sharded"] {
        let place = Place::new();
        let base = text(&format!("models/{name}"));
        let adapter = text(&format!("models/{name}/adapters/plain"));
        let data = text("pairs.jsonl");
        let merge = ["merge", "--dtype", "f32", "--base", &base, "--adapter", &adapter, "--output", "merged"];
        let ran = place.run(&merge);
        assert!(ran.stderr.contains("maximum |Δlogit|"), "{name}: {}", ran.stderr);
        assert_eq!(ran.ok(), "");
        let score = |model: &[&str]| {
            place.run(&[&["score", "--dtype", "f32", "--data", &data, "--base"], model].concat()).json()
        };
        let with = score(&[&base, "--adapter", &adapter]);
        let (merged, bare) = (score(&["merged"]), score(&[&base]));
        assert_near(&logps(&merged), &logps(&with), 1e-4, name);
        let moved = logps(&bare).iter().zip(logps(&with)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(moved > 0.1, "{name}: the adapter does nothing");

        let again = place.run(&merge);
        assert_eq!((again.code.unwrap() > 0, again.stdout.as_str()), (true, ""), "{name}");
        assert!(again.stderr.contains("merged") && again.stderr.contains("--force"), "{}", again.stderr);
        let file = place.run(&["merge", "--base", &base, "--adapter", &adapter, "--output", "merged.gguf"]);
        assert_eq!(file.code, Some(2), "{}", file.stderr);
        assert!(file.stderr.contains("--format gguf") && !place.path("merged.gguf").exists());
    }
}

#[test]
fn weights_scale_and_add() {
    let place = Place::new();
    let (base, data) = (text("models/llama"), text("pairs.jsonl"));
    let (one, two) = (text("models/llama/adapters/plain"), text("models/llama/adapters/rslora"));
    let merge = |adapters: &[&str], weights: &str, output: &str| {
        let mut args = vec!["merge", "--base", &base, "--output", output, "--weights", weights];
        adapters.iter().for_each(|adapter| args.extend(["--adapter", adapter]));
        place.run(&args)
    };
    merge(&[&one, &two], "1,-1", "sum").ok();
    merge(&[&one], "1", "one").ok();
    // What was added is taken off again: one + two − two, in two merges.
    merge(&[&one, &two], "1,1", "both").ok();
    let minus = ["merge", "--base", "both", "--adapter", &two, "--weights=-1", "--output", "back"];
    let refused = place.run(&minus);
    assert_eq!(refused.code, Some(0), "{}", refused.stderr);
    let score = |base: &str| logps(&place.run(&["score", "--base", base, "--data", &data]).json());
    assert_near(&score("back"), &score("one"), 1e-4, "one + two − two");
    assert_ne!(score("sum"), score("both"));

    let wrong = merge(&[&one, &two], "0.5", "wrong");
    assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(2), ""));
    assert!(wrong.stderr.contains("1 factors for 2 adapters"), "{}", wrong.stderr);
    assert!(!place.path("wrong").exists());
}

#[test]
fn bf16_says_what_rounding_cost() {
    let place = Place::new();
    copy(&fixture("models/qwen2"), &place.path("model"));
    let ran = place.run(&[
        "merge",
        "--base",
        "model",
        "--adapter",
        "model/adapters/plain",
        "--output",
        "merged",
        "--dtype",
        "bf16",
    ]);
    assert!(ran.stderr.contains("rounding moved a weight by"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("by 0.00e0"), "{}", ran.stderr);
    ran.ok();
    let kind = place.run(&["inspect", "merged", "--json"]).json().remove(0);
    assert_eq!(kind["dtype"], "bf16");
}

#[test]
fn a_gguf_model_is_a_base_again() {
    let place = Place::new();
    let (base, data) = (text("models/llama"), text("pairs.jsonl"));
    let adapter = text("models/llama/adapters/rslora");
    let with = ["--base", &base, "--adapter", &adapter];
    let merge = |output: &str, dtype: &str| {
        place.run(&[&["merge", "--format", "gguf", "--dtype", dtype, "--output", output], &with[..]].concat())
    };
    let ran = merge("f32.gguf", "f32");
    assert!(ran.stderr.contains("merged 21 modules into f32.gguf"), "{}", ran.stderr);
    assert!(ran.stderr.contains("verified") && ran.stderr.contains("bound 1e-4"), "{}", ran.stderr);
    ran.ok();
    let score = |model: &[&str]| logps(&place.run(&[&["score", "--data", &data], model].concat()).json());
    assert_near(&score(&["--base", "f32.gguf"]), &score(&with), 1e-4, "gguf");
    merge("q8.gguf", "q8_0").ok();
    let again = merge("f32.gguf", "f32");
    assert!(again.code == Some(2) && again.stderr.contains("--force"), "{}", again.stderr);
    let wrong = place.run(&[&["merge", "--dtype", "q8_0", "--output", "x"], &with[..]].concat());
    assert!(wrong.code == Some(2) && wrong.stderr.contains("--format gguf"), "{}", wrong.stderr);
    // A GGUF adapter wherever adapters are read.
    place.run(&[&["export", "--format", "gguf", "--output", "a.gguf"], &with[..]].concat()).ok();
    assert_near(&score(&["--base", &base, "--adapter", "a.gguf"]), &score(&with), 1e-4, "GGUF adapter");
    place.recipe(
        base.as_ref(),
        data.as_ref(),
        &[("lora.init_from", "a.gguf".into()), ("model.adapter", "a.gguf".into())],
    );
    place.run(&["train", "-c", "run.yaml"]).ok();
}
