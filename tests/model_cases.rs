//! Bases that were once computed wrongly without an error, tested with the program: each gives transformers 5.24's
//! log-probs (`expected.json`) or is refused for the right reason.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::program::Place;
use common::{fixture, json};
use serde_json::Value;

/// Scores a case's pairs and returns the program's outcome.
fn score(place: &Place, case: &str, more: &[&str]) -> common::program::Ran {
    let directory = fixture("cases").join(case);
    let (base, pairs) = (directory.join("base"), directory.join("pairs.jsonl"));
    let base = ["--base", base.to_str().unwrap(), "--data", pairs.to_str().unwrap()];
    place.run(&[&["score"][..], &base, more].concat())
}

#[test]
fn what_is_understood_gives_the_log_probs_of_transformers() {
    for case in ["defaults", "gemma-attention-bias", "rope-scaling-beside", "yarn-mscale"] {
        let expected = json(&format!("cases/{case}/expected.json"));
        let lines = score(&Place::new(), case, &[]).json();
        assert_eq!(lines.len(), expected["logps"].as_array().unwrap().len(), "{case}");
        for (line, want) in lines.iter().zip(expected["logps"].as_array().unwrap()) {
            for (i, key) in ["chosen_logp", "rejected_logp"].iter().enumerate() {
                let (got, want) = (line[key].as_f64().unwrap(), want[i].as_f64().unwrap());
                assert!((got - want).abs() < 1e-3, "{case} {key}: {got} against {want}");
            }
        }
    }
}

#[test]
fn a_disagreement_that_transformers_resolves_is_told() {
    let ran = score(&Place::new(), "rope-scaling-beside", &[]);
    assert!(ran.stderr.contains("rope_parameters disagree; rope_scaling is used"), "{}", ran.stderr);
}

#[test]
fn what_is_not_understood_is_refused_by_its_cause() {
    for (case, words) in [
        ("bitnet-online", &["quantization_config", "\"bitnet\"", "unquantised"][..]),
        ("quantised-names", &["quantization_config", "\"gptq\"", "unquantised"]),
        ("tied-head-stored", &["tie_word_embeddings", "lm_head.weight", "set tie_word_embeddings to false"]),
        ("nan-base", &["NaN", "tensor model.", "which is not a valid weight"]),
    ] {
        for command in ["score", "eval"] {
            let directory = fixture("cases").join(case);
            let (base, pairs) = (directory.join("base"), directory.join("pairs.jsonl"));
            let (base, pairs) = (base.to_str().unwrap(), pairs.to_str().unwrap());
            let ran = Place::new().run(&[command, "--base", base, "--data", pairs]);
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{case}: {}", ran.stderr);
            words.iter().for_each(|word| assert!(ran.stderr.contains(word), "{case}: {}", ran.stderr));
        }
        let base = fixture("cases").join(case).join("base");
        let ran = Place::new().run(&["generate", "--base", base.to_str().unwrap(), "--prompt", "a b"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{case}: {}", ran.stderr);
    }
}

#[test]
fn force_computes_a_stored_head_as_transformers_5_does() {
    let expected = json("cases/tied-head-stored/expected.json");
    let ran = score(&Place::new(), "tied-head-stored", &["--force"]);
    assert!(ran.stderr.contains("the stored head is used"), "{}", ran.stderr);
    for (line, want) in ran.json().iter().zip(expected["logps"].as_array().unwrap()) {
        let (got, want) = (line["chosen_logp"].as_f64().unwrap(), want[0].as_f64().unwrap());
        assert!((got - want).abs() < 1e-3, "{got} against {want}");
    }
}

#[test]
fn force_turns_keys_and_tensors_that_are_not_understood_into_warnings() {
    let place = Place::new();
    place.model("llama");
    place.edit("model/config.json", |config| config["surprise_factor"] = 2.0.into());
    let pairs = fixture("pairs.jsonl");
    let args = ["score", "--base", "model", "--data", pairs.to_str().unwrap()];
    let refused = place.run(&args);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("surprise_factor: is 2.0, and is not understood"), "{}", refused.stderr);
    let forced = place.run(&[&args[..], &["--force"]].concat());
    assert!(
        forced.stderr.contains("warning: ") && forced.stderr.contains("surprise_factor"),
        "{}",
        forced.stderr
    );
    assert_eq!(forced.json().len(), json_lines(&pairs));
}

#[test]
fn damaged_folders_are_told_by_file_and_remedy() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    let changed = |name: &str, change: &dyn Fn(String) -> String, words: &[&str]| {
        let place = Place::new();
        place.model("llama");
        let name = format!("model/{name}");
        place.write(&name, change(String::from_utf8_lossy(&place.read(&name)).into()));
        let pairs = fixture("pairs.jsonl");
        let ran = place.run(&["score", "--base", "model", "--data", pairs.to_str().unwrap()]);
        assert!([Some(1), Some(2)].contains(&ran.code) && ran.stdout.is_empty(), "{name}: {}", ran.stderr);
        words.iter().for_each(|word| assert!(ran.stderr.contains(word), "{name}: {word} in {}", ran.stderr));
    };
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        changed(name, &|_| pointer.into(), &[name, "is a Git LFS pointer", "git lfs pull"]);
    }
    for name in ["config.json", "tokenizer_config.json"] {
        changed(name, &|text| format!("\u{feff}{text}"), &[name, "byte-order mark", "UTF-8 without one"]);
    }
    let set = |key: &'static str, value: &'static str| {
        move |text: String| text.replacen('{', &format!("{{\n\"{key}\": {value},"), 1)
    };
    changed("config.json", &set("foo_limit", "Infinity"), &["config.json: foo_limit: is Infinity"]);
    let negative = |text: String| text.replace("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1.0");
    changed("config.json", &negative, &["config.json: rms_norm_eps: is -1", "0 or more"]);
}

#[test]
fn a_base_with_an_adapter_in_its_directory_is_refused() {
    let place = Place::new();
    place.model("llama");
    place.write("model/adapter_config.json", "{}");
    let pairs = fixture("pairs.jsonl");
    let ran = place.run(&["score", "--base", "model", "--data", pairs.to_str().unwrap()]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("holds a base (config.json) and an adapter"), "{}", ran.stderr);
}

#[test]
fn settings_of_generation_that_are_not_applied_are_told() {
    let place = Place::new();
    place.model("llama");
    let generate = ["generate", "--base", "model", "--prompt", "a b", "--max-new-tokens", "2"];
    place.write("model/generation_config.json", r#"{"repetition_penalty": 1.0, "eos_token_id": 1}"#);
    let ran = place.run(&generate);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    place.write("model/generation_config.json", r#"{"repetition_penalty": 1.1, "eos_token_id": 1}"#);
    let ran = place.run(&generate);
    assert!(ran.stderr.contains("asks for repetition_penalty 1.1"), "{}", ran.stderr);
}

#[test]
fn a_merge_that_is_not_verified_looks_for_weights_that_are_no_numbers() {
    let base = fixture("cases/nan-base/base");
    let adapter = fixture("cases/merge-auto-map/adapter");
    let (base, adapter) = (base.to_str().unwrap(), adapter.to_str().unwrap());
    let place = Place::new();
    let merge = ["merge", "--base", base, "--adapter", adapter, "--output", "o", "--no-verify", "--force"];
    let ran = place.run(&merge);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("which is not a valid weight"), "{}", ran.stderr);
    assert!(!place.path("o").exists());
}

fn json_lines(path: &std::path::Path) -> usize {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count()
}
