//! `merge --output-adapter`, `--unmerge`, `export` and `inspect`: the program reads back what it writes.

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::{Place, copy};

fn text(path: &str) -> String {
    fixture(path).to_str().unwrap().to_string()
}

fn logps(place: &Place, adapters: &[&str]) -> Vec<f64> {
    let (base, data) = (text("models/llama"), text("pairs.jsonl"));
    let mut args = vec!["score", "--base", &base, "--data", &data];
    adapters.iter().for_each(|adapter| args.extend(["--adapter", adapter]));
    let sides = ["chosen_logp", "rejected_logp"];
    place.run(&args).json().iter().flat_map(|line| sides.map(|side| line[side].as_f64().unwrap())).collect()
}

fn off(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn compose(place: &Place, output: &str, more: &[&str]) -> crate::common::program::Ran {
    let (base, a, c) = (text("models/llama"), text("compose/a"), text("compose/c"));
    let args = ["merge", "--base", &base, "--adapter", &a, "--adapter", &c, "--output-adapter", output];
    place.run(&[&args[..], more].concat())
}

#[test]
fn a_composed_adapter_does_what_its_parts_do_together() {
    let place = Place::new();
    let together = logps(&place, &[&text("compose/a"), &text("compose/c")]);
    assert!(off(&together, &logps(&place, &[])) > 0.1);
    compose(&place, "cat", &["--combination", "cat"]).ok();
    assert!(off(&logps(&place, &["cat"]), &together) < 1e-3);
    let ran = compose(&place, "svd", &["--rank", "7"]);
    assert!(ran.stderr.contains("svd of 2 adapters, 6 modules of rank 7"), "{}", ran.stderr);
    assert!(ran.stderr.contains("energy kept (share of ‖ΔW‖²): 100.0000 %"), "{}", ran.stderr);
    ran.ok();
    assert!(off(&logps(&place, &["svd"]), &together) < 1e-3);
    // An adapter minus itself changes nothing.
    let (base, a) = (text("models/llama"), text("compose/a"));
    let both = ["--adapter", &a, "--adapter", &a, "--weights", "1,-1", "--combination", "cat"];
    place.run(&[&["merge", "--base", &base, "--output-adapter", "none"], &both[..]].concat()).ok();
    assert!(off(&logps(&place, &["none"]), &logps(&place, &[])) < 1e-4);

    for (more, word) in [
        (vec!["--combination", "ties"], "--density"),
        (vec!["--combination", "cat", "--density", "0.5"], "leave --density out"),
        (vec!["--combination", "cat", "--rank", "4"], "--rank applies to --combination svd only"),
    ] {
        let ran = compose(&place, "wrong", &more);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
    let ranks = compose(&place, "wrong", &["--combination", "ties", "--density", "0.5"]);
    assert!(ranks.stderr.contains("has the ranks [4, 3]"), "{}", ranks.stderr);
    let again = compose(&place, "cat", &["--combination", "cat"]);
    assert!(again.code == Some(2) && again.stderr.contains("--force"), "{}", again.stderr);
    assert!(!place.path("wrong").exists());
}

#[test]
fn how_an_adapter_was_trained_stays_with_it_in_every_format() {
    let place = Place::new();
    let (base, data) = (text("models/llama"), text("pairs.jsonl"));
    let own = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}";
    place.llama_recipe(&[
        ("objective", json!({"loss_type": "ipo", "beta": 0.7})),
        ("data.chat_template", json!(own)),
        ("train.learning_rate", json!(5e-3)),
    ]);
    place.run(&["train", "-q", "-c", "run.yaml"]).ok();
    let eval = |adapter: &str| {
        let args = ["eval", "--base", &base, "--adapter", adapter, "--data", &data, "--json"];
        place.run(&args).json().remove(0)
    };
    let want = eval("run");
    let near = |found: &Value, adapter: &str| {
        for figure in ["loss", "reward_margin"] {
            let (a, b) = (found[figure].as_f64().unwrap(), want[figure].as_f64().unwrap());
            assert!((a - b).abs() <= 1e-3 * b.abs().max(1e-2), "{adapter}, {figure}: {a} for {b}");
        }
    };
    for (format, output) in [("gguf", "a.gguf"), ("mlx", "mlx"), ("peft", "peft")] {
        let args = ["export", "--base", &base, "--adapter", "run", "--format", format, "--output", output];
        place.run(&args).ok();
        near(&eval(output), output);
    }
    for (output, more) in [("one", vec![]), ("two", vec!["--adapter", "a.gguf", "--weights", "0.5,0.5"])] {
        let args = ["merge", "--base", &base, "--adapter", "run", "--output-adapter", output];
        place.run(&[&args[..], &more].concat()).ok();
        near(&eval(output), output);
    }
    // As a run writes them.
    for directory in ["peft", "one"] {
        for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            let [here, there] = [directory, "run/adapter"].map(|from| place.read(&format!("{from}/{name}")));
            assert_eq!(here, there, "{directory}/{name}");
        }
    }
}

#[test]
fn a_loss_that_an_adapter_does_not_note_is_assumed_with_a_warning() {
    let place = Place::new();
    let (base, adapter, data) =
        (text("models/llama"), text("models/llama/adapters/plain"), text("pairs.jsonl"));
    let words =
        "plain does not say with which loss of pairs it was trained: sigmoid with beta 0.1 is assumed";
    let with = ["--base", &base, "--adapter", &adapter];
    let eval = ["eval", "--data", &data];
    let generate = ["generate", "--prompt", "x", "--max-new-tokens", "1"];
    for (command, more, told) in
        [(&eval[..], vec![], 1), (&eval, vec!["--beta", "0.2"], 0), (&generate, vec![], 0)]
    {
        let ran = place.run(&[command, &with, &more].concat());
        assert_eq!(ran.stderr.matches(words).count(), told, "{command:?} {more:?}: {}", ran.stderr);
        ran.ok();
    }
}

#[test]
fn unmerging_gives_the_base_back() {
    let place = Place::new();
    place.llama_recipe(&[]);
    place.run(&["train", "-c", "run.yaml"]).ok();
    let base = text("models/llama");
    let merge = |base: &str, output: &str, more: &[&str]| {
        let args = ["merge", "--base", base, "--adapter", "run/adapter", "--output", output];
        place.run(&[&args[..], more].concat())
    };
    merge(&base, "merged", &[]).ok();
    // For the adapter, the merged model is another base, unless the adapter is subtracted again.
    assert!(merge("merged", "twice", &[]).stderr.contains("was trained on"));
    let nothing = merge(&base, "minus", &["--unmerge"]);
    assert!(nothing.stderr.contains("nothing to remove"), "{}", nothing.stderr);
    let ran = merge("merged", "back", &["--unmerge"]);
    assert!(ran.stderr.contains("unmerged 21 modules") && ran.stderr.contains("verified"), "{}", ran.stderr);
    ran.ok();
    let data = text("pairs.jsonl");
    let score = |base: &str| -> Vec<f64> {
        let lines = place.run(&["score", "--base", base, "--data", &data]).json();
        lines.iter().map(|line| line["chosen_logp"].as_f64().unwrap()).collect()
    };
    let (there, back) = (score(&base), score("back"));
    assert!(off(&there, &back) < 1e-3, "{}", off(&there, &back));
    assert!(off(&there, &score("merged")) > 1e-3);
}

#[test]
fn exports_are_read_back_and_say_who_serves_them() {
    let place = Place::new();
    let base = text("models/llama");
    for case in ["plain", "rslora", "patterns"] {
        let adapter = text(&format!("models/llama/adapters/{case}"));
        let want = logps(&place, &[&adapter]);
        for (format, more) in [("peft", vec![]), ("peft", vec!["--fold-scale"]), ("mlx", vec![])] {
            let output = format!("{case}-{format}-{}", more.len());
            let args =
                ["export", "--base", &base, "--adapter", &adapter, "--format", format, "--output", &output];
            let told = place.run(&[&args[..], &more, &["--json"]].concat()).json().remove(0);
            let servers = told["servers"].as_array().unwrap();
            let of = |name: &str| servers.iter().find(|s| s["server"] == name).unwrap()["serves"].clone();
            assert_eq!(of("mlx-lm"), if format == "mlx" { "yes" } else { "no" });
            assert_eq!(
                of("SGLang"),
                if output == "plain-peft-0" || output == "plain-peft-1" || output == "rslora-peft-1" {
                    "yes"
                } else {
                    "no"
                },
                "{output}"
            );
            assert!(off(&logps(&place, &[&output]), &want) < 1e-3, "{output}");
        }
    }
    let adapter = text("models/llama/adapters/rslora");
    let args = [
        "export",
        "--base",
        &base,
        "--adapter",
        &adapter,
        "--format",
        "gguf",
        "--dtype",
        "q8_0",
        "--output",
        "a.gguf",
    ];
    let ran = place.run(&args);
    let table = ran.ok();
    assert!(table.lines().any(|line| line.starts_with("llama.cpp") && line.contains(" yes ")), "{table}");
}

#[test]
fn inspect_shows_what_adapters_change_and_how_alike_they_are() {
    let place = Place::new();
    let (base, a, c) = (text("models/llama"), text("compose/a"), text("compose/c"));
    let inspect = |more: &[&str]| place.run(&[&["inspect", &a, "--json"], more].concat()).json().remove(0);
    let alone = inspect(&[]);
    assert_eq!((&alone["modules"], &alone["share"]), (&json!(6), &Value::Null));
    let module = &alone["module"][0];
    assert_eq!((&module["module"], &module["rank"]), (&json!("model.layers.0.self_attn.q_proj"), &json!(4)));
    assert!(module["effective_rank"].as_f64().unwrap() > 1.0 && module["delta_norm"].as_f64().unwrap() > 0.0);
    let beside = inspect(&["--base", &base, "--against", &c]);
    assert_eq!(beside["module"][0]["delta_norm"], module["delta_norm"]);
    assert!(beside["module"][0]["share"].as_f64().unwrap() > 0.0);
    let cosine = beside["against"]["cosine"].as_f64().unwrap();
    assert!(cosine.abs() < 0.5 && cosine != 0.0, "{cosine}");
    assert!((inspect(&["--against", &a])["against"]["cosine"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    let table = place.run(&["inspect", &a, "--against", &c]).ok();
    assert!(table.contains("eff. rank") && table.contains("cosine"), "{table}");
    let refused = place.run(&["inspect", &base, "--against", &c]);
    assert!(
        refused.code == Some(2) && refused.stderr.contains("apply to adapters only"),
        "{}",
        refused.stderr
    );
}

#[test]
fn an_adapted_head_that_was_tied_is_untied() {
    let place = Place::new();
    // In gemma3 the head is the embedding.
    copy(&fixture("models/gemma3"), &place.path("model"));
    let head = "base_model.model.lm_head";
    let numbers = |n: usize, step: f32| {
        (0..n).flat_map(|i| ((i % 13) as f32 * step - 0.05).to_le_bytes()).collect::<Vec<u8>>()
    };
    let (vocab, hidden) = (320, 32);
    let (a, b) = (numbers(2 * hidden, 0.01), numbers(2 * vocab, 0.02));
    let view =
        |bytes, shape| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes).unwrap();
    let tensors = [
        (format!("{head}.lora_A.weight"), view(&a[..], vec![2, hidden])),
        (format!("{head}.lora_B.weight"), view(&b[..], vec![vocab, 2])),
    ];
    std::fs::create_dir(place.path("head")).unwrap();
    place.write("head/adapter_model.safetensors", safetensors::serialize(tensors, None).unwrap());
    place.write(
        "head/adapter_config.json",
        r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["lm_head"]}"#,
    );
    let ran = place.run(&["merge", "--base", "model", "--adapter", "head", "--output", "merged"]);
    assert!(ran.stderr.contains("merged 1 modules") && ran.stderr.contains("verified"), "{}", ran.stderr);
    ran.ok();
    let config: Value = serde_json::from_slice(&place.read("merged/config.json")).unwrap();
    assert_eq!(config["tie_word_embeddings"], false);
    let bytes = place.read("merged/model.safetensors");
    let merged = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (embedding, head) =
        (merged.tensor("model.embed_tokens.weight").unwrap(), merged.tensor("lm_head.weight").unwrap());
    assert_eq!((head.shape(), head.dtype()), (embedding.shape(), embedding.dtype()));
    assert_ne!(head.data(), embedding.data());
    let original = place.read("model/model.safetensors");
    let original = safetensors::SafeTensors::deserialize(&original).unwrap();
    assert_eq!(embedding.data(), original.tensor("model.embed_tokens.weight").unwrap().data());
    // Nothing can apply it without merging.
    let data = text("pairs.jsonl");
    let refused = place.run(&["score", "--base", "model", "--adapter", "head", "--data", &data]);
    assert!(
        refused.code == Some(1) && refused.stderr.contains("adapts the head lm_head"),
        "{}",
        refused.stderr
    );
}
