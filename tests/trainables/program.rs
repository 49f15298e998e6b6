//! Every kind from the built program: trained, resumed to the same bytes, used and refused.

use serde_json::{Value, json};

use super::common::fixture;
use super::common::program::Place;

const TRAIN: [&str; 3] = ["train", "-c", "run.yaml"];

/// The keys of `lora` that switch a kind on, for `models/llama`.
fn kinds() -> [(&'static str, Vec<(&'static str, Value)>); 5] {
    [
        (
            "prefix",
            vec![
                ("lora.prefix_tuning", json!({"num_virtual_tokens": 3})),
                ("lora.lora_dropout", json!(0.0)),
                ("lora.r", json!(16)),
                ("lora.lora_alpha", json!(32)),
            ],
        ),
        (
            "projected",
            vec![
                (
                    "lora.prefix_tuning",
                    json!({"num_virtual_tokens": 3, "prefix_projection": true, "encoder_hidden_size": 5}),
                ),
                ("lora.lora_dropout", json!(0.0)),
                ("lora.r", json!(16)),
                ("lora.lora_alpha", json!(32)),
            ],
        ),
        (
            "layers",
            vec![
                ("lora.adapter_layers", json!({"bottleneck_size": 4})),
                ("lora.r", json!(16)),
                ("lora.lora_alpha", json!(32)),
            ],
        ),
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

/// Bases in blocks of few bits: rounded to NF4 while they are loaded, and a GGUF file.
#[test]
fn quantised_bases_take_every_kind_but_copies_of_their_own_tensors_also_with_accumulated_gradients() {
    let gguf = fixture("gguf/llama-k.gguf");
    let bases = [
        vec![
            ("model.base", json!("tiny-reviews")),
            ("model.load_in_4bit", json!("nf4")),
            ("data.train", json!("tiny-reviews/train.jsonl")),
        ],
        vec![("model.base", json!(gguf.to_str().unwrap()))],
    ];
    let dora = ("dora", vec![("lora.use_dora", json!(true))]);
    for base in bases {
        for (kind, settings) in kinds().into_iter().chain([dora.clone()]) {
            let run = |batch: usize, accumulation: usize| {
                let place = Place::new();
                let more = [
                    ("train.max_steps", json!(3)),
                    ("train.per_device_train_batch_size", json!(batch)),
                    ("train.gradient_accumulation_steps", json!(accumulation)),
                    ("lora.lora_dropout", json!(0.0)),
                    ("train.shuffle", json!(false)),
                ];
                place.llama_recipe(&[&base[..], &settings, &more].concat());
                let ran = place.run(&TRAIN);
                (place, ran)
            };
            let (place, ran) = run(4, 1);
            // Embedding and head of the GGUF file are in blocks; NF4 leaves them as they are.
            if ["whole", "rows"].contains(&kind) && base.len() == 1 {
                let said = ran.stderr.contains("quantised") && ran.stderr.contains("model.");
                assert!(ran.code != Some(0) && said, "{kind}: {}", ran.stderr);
                assert!(!place.path("run/adapter").exists());
                continue;
            }
            ran.ok();
            let (parts, ran) = run(2, 2);
            ran.ok();
            for (step, (whole, part)) in place.metrics("run").iter().zip(parts.metrics("run")).enumerate() {
                // The sums of the first gradients differ in their last digits; behind them, where activations are rounded to 16
                // bits, a digit more or less is a ten-thousandth.
                let most = if step == 0 { 1e-5 } else { 1e-3 };
                for key in ["loss", "grad_norm", "logps/chosen"] {
                    let (Some(whole), Some(part)) = (whole[key].as_f64(), part[key].as_f64()) else {
                        continue;
                    };
                    let near = (whole - part).abs() <= most * whole.abs().max(1e-2);
                    assert!(near, "{base:?} {kind} step {step} {key}: {whole} {part}");
                }
            }
        }
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
            "prefix" | "projected" | "layers" => {
                let word = if kind == "layers" { "adapter layer" } else { "prefix" };
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
fn adapters_of_different_kinds_are_merged_and_verified_together() {
    let place = Place::new();
    let model = fixture("models/llama");
    let base = model.to_str().unwrap();
    let kinds = [
        ("lora", vec![]),
        ("dora", vec![("lora.use_dora", json!(true))]),
        ("rows", vec![("lora.trainable_token_indices", json!([17, 45, 9]))]),
    ];
    for (name, settings) in kinds {
        place.llama_recipe(&[&settings[..], &[("output_dir", json!(name))]].concat());
        place.run(&TRAIN).ok();
    }
    let merged = |adapters: [&str; 2], output: &str| {
        let args = ["merge", "--base", base, "--adapter", adapters[0], "--adapter", adapters[1]];
        place.run(&[&args[..], &["--device", "cpu", "--dtype", "f32", "--output", output]].concat())
    };
    for (adapters, output) in [(["lora", "dora"], "a"), (["dora", "rows"], "b"), (["rows", "lora"], "c")] {
        let ran = merged(adapters, output);
        assert!(ran.code == Some(0) && ran.stderr.contains("verified on"), "{adapters:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("100.0 % (±"), "{adapters:?}: {}", ran.stderr);
    }
    let ran = merged(["rows", "rows"], "d");
    assert!(ran.code != Some(0) && ran.stderr.contains("replaced by adapter 1"), "{}", ran.stderr);
    assert!(!place.path("d").exists());
}

#[test]
fn the_card_of_a_continued_adapter_names_its_kind() {
    for (kind, settings) in kinds() {
        let place = trained(&settings);
        let more = [
            ("lora.init_from", json!("run")),
            ("output_dir", json!("again")),
            ("lora.lora_dropout", json!(0.0)),
        ];
        place.llama_recipe(&more);
        place.run(&TRAIN).ok();
        let title = |run: &str| {
            let card = String::from_utf8(place.read(&format!("{run}/adapter/README.md"))).unwrap();
            card.lines().find(|line| line.starts_with("# ")).unwrap_or_default().to_string()
        };
        assert_eq!(title("again"), title("run"), "{kind}");
        let said = place.run(&[&TRAIN[..], &["--dry-run", "--overwrite"]].concat());
        assert!(said.code == Some(0) && said.stderr.contains("parameters trained"), "{}", said.stderr);
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
            "adapted twice: lora.modules_to_save trains all of it, and lora.trainable_token_indices some of its rows; remove",
        ),
        (
            vec![("lora.modules_to_save", json!(["lm_head", "head"]))],
            "lora.modules_to_save names lm_head twice",
        ),
        // The head is the embedding.
        (
            vec![
                ("model.base", json!(fixture("models/gemma2").to_str().unwrap())),
                ("lora.trainable_token_indices", json!([3])),
                ("lora.modules_to_save", json!(["lm_head"])),
            ],
            "PEFT cannot load an adapter with both; remove lm_head from lora.modules_to_save, or remove \
             lora.trainable_token_indices",
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
