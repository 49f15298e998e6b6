//! Every kind from the built program: trained, resumed to the same bytes, used and refused.

use serde_json::{Value, json};

use super::common::fixture;
use super::common::program::Place;

const TRAIN: [&str; 3] = ["train", "-c", "run.yaml"];

/// The keys of `lora` that switch a kind on, for `models/llama`.
fn kinds() -> [(&'static str, Vec<(&'static str, Value)>); 4] {
    [
        (
            "prefix",
            vec![("lora.prefix_tuning", json!({"num_virtual_tokens": 3})), ("lora.lora_dropout", json!(0.0))],
        ),
        ("layers", vec![("lora.adapter_layers", json!({"bottleneck_size": 4}))]),
        ("whole", vec![("lora.modules_to_save", json!(["embed_tokens", "lm_head"]))]),
        ("rows", vec![("lora.trainable_token_indices", json!([17, 45, 9]))]),
    ]
}

/// Six steps with these settings beside those of a kind.
fn trained(more: &[(&str, Value)]) -> Place {
    let place = Place::new();
    let mut settings = vec![
        ("data.eval", json!(fixture("pairs.jsonl").to_str().unwrap())),
        ("train.eval_steps", json!(3)),
        ("train.save_steps", json!(1)),
        ("train.save_total_limit", Value::Null),
        ("train.threads", json!(1)),
    ];
    settings.extend_from_slice(more);
    place.llama_recipe(&settings);
    place.run(&TRAIN).ok();
    place
}

#[test]
fn a_resumed_run_ends_with_the_same_bytes_also_with_other_threads_and_recomputation() {
    for (kind, settings) in kinds() {
        let place = trained(&settings);
        let (adapter, metrics) = (place.adapter("run"), place.metrics("run"));
        for step in 4..=6 {
            std::fs::remove_dir_all(place.path(&format!("run/checkpoints/step-{step}"))).unwrap();
        }
        std::fs::remove_dir_all(place.path("run/adapter")).unwrap();
        place.run(&[&TRAIN[..], &["--resume"]].concat()).ok();
        assert_eq!(place.adapter("run"), adapter, "{kind}");
        assert_eq!(place.metrics("run"), metrics, "{kind}");
        let other = [("train.threads", json!(2)), ("train.gradient_checkpointing", json!(true))];
        let other = trained(&[&settings[..], &other].concat());
        assert_eq!(other.adapter("run"), adapter, "{kind}");
    }
}

#[test]
fn what_was_trained_scores_generates_and_continues() {
    for (kind, settings) in kinds() {
        let place = trained(&settings);
        let model = fixture("models/llama");
        let (base, pairs) = (model.to_str().unwrap(), fixture("pairs.jsonl"));
        let pairs = pairs.to_str().unwrap();
        let args = ["--base", base, "--adapter", "run", "--device", "cpu"];
        let run = |command: &str, more: &[&str]| place.run(&[&[command], &args[..], more].concat());
        let scores = run("score", &["--data", pairs]).json();
        let moved = |line: &Value| line["chosen_logp"] != line["ref_chosen_logp"];
        assert!(scores.iter().any(moved), "{kind}");
        let found = run("eval", &["--data", pairs, "--json"]).json();
        assert!(found[0]["accuracy"].is_f64() || found[0]["accuracy"].is_u64(), "{kind}: {found:?}");
        run("generate", &["--prompt", "a b", "--max-new-tokens", "3"]).ok();
        let shown = place.run(&["inspect", "run/adapter", "--base", base]).ok();
        assert!(shown.contains("parameters"), "{shown}");
        let more = [
            ("lora.init_from", json!("run")),
            ("output_dir", json!("again")),
            ("lora.lora_dropout", json!(0.0)),
        ];
        place.llama_recipe(&more);
        place.run(&TRAIN).ok();
        assert_ne!(place.adapter("again")[1], place.adapter("run")[1], "{kind}");
        let rewards = place.metrics("again").iter().find_map(|line| line["rewards/margins"].as_f64());
        assert_eq!(rewards, Some(0.0), "{kind}: the reference is a copy");
    }
}

#[test]
fn merging_and_exporting_work_or_are_refused_by_name() {
    for (kind, settings) in kinds() {
        let place = trained(&settings);
        let model = fixture("models/llama");
        let base = model.to_str().unwrap();
        let merged = place.run(&[
            "merge",
            "--base",
            base,
            "--adapter",
            "run",
            "--device",
            "cpu",
            "--output",
            "merged",
            "--dtype",
            "f32",
        ]);
        let gguf = place.run(&[
            "export",
            "--base",
            base,
            "--adapter",
            "run",
            "--format",
            "gguf",
            "--output",
            "a.gguf",
        ]);
        assert_ne!(gguf.code, Some(0), "{kind}");
        match kind {
            "prefix" | "layers" => {
                let word = if kind == "prefix" { "prefix" } else { "adapter layer" };
                assert!(merged.code != Some(0) && merged.stderr.contains(word), "{kind}: {}", merged.stderr);
                assert!(!place.path("merged").exists());
                assert!(gguf.stderr.contains(word), "{kind}: {}", gguf.stderr);
            }
            _ => {
                merged.ok();
                assert!(gguf.stderr.contains("dpo-lora merge"), "{kind}: {}", gguf.stderr);
                let pairs = fixture("pairs.jsonl");
                let pairs = pairs.to_str().unwrap();
                let with = place
                    .run(&["score", "--base", base, "--adapter", "run", "--data", pairs, "--device", "cpu"])
                    .json();
                let alone =
                    place.run(&["score", "--base", "merged", "--data", pairs, "--device", "cpu"]).json();
                for (with, alone) in with.iter().zip(&alone) {
                    let of = |line: &Value| line["chosen_logp"].as_f64().unwrap();
                    assert!((of(with) - of(alone)).abs() < 1e-3, "{kind}: {with} {alone}");
                }
            }
        }
    }
}

#[test]
fn wrong_settings_are_refused_with_their_remedy() {
    let place = Place::new();
    for (settings, part) in [
        (
            vec![("lora.modules_to_save", json!(["norm"]))],
            "only the embedding, model.embed_tokens, and the head, lm_head",
        ),
        (vec![("lora.trainable_token_indices", json!([320]))], "names token 320, and the base has 320"),
        (vec![("lora.trainable_token_indices", json!({"lm_head": [3]}))], "names lm_head"),
        (
            vec![
                ("lora.trainable_token_indices", json!([3])),
                ("lora.modules_to_save", json!(["embed_tokens"])),
            ],
            "adapted twice",
        ),
        (vec![("lora.prefix_tuning", json!({"num_virtual_tokens": 3}))], "no dropout"),
        (vec![("lora.prefix_tuning", json!({"tokens": 3})), ("lora.lora_dropout", json!(0.0))], "tokens"),
        (vec![("lora.adapter_layers", json!({"non_linearity": "mish"}))], "mish"),
        (vec![("lora.modules_to_save", json!(["lm_head"])), ("train.optim", json!("muon"))], "muon"),
    ] {
        place.llama_recipe(&settings);
        let ran = place.run(&TRAIN);
        assert!(ran.code != Some(0) && ran.stderr.contains(part), "{settings:?}: {}", ran.stderr);
        assert!(!place.path("run/adapter").exists());
    }
}
