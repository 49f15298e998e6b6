//! Training, scoring and merging with a GGUF file as the base.

use serde_json::Value;

use crate::common::fixture;
use crate::common::program::Place;

fn text(path: &str) -> String {
    fixture(path).to_str().unwrap().to_string()
}

fn logps(lines: &[Value]) -> Vec<f64> {
    let sides = ["chosen_logp", "rejected_logp", "ref_chosen_logp", "ref_rejected_logp"];
    lines.iter().flat_map(|line| sides.map(|side| line[side].as_f64().unwrap())).collect()
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max)
}

#[test]
fn a_gguf_base_is_trained_scored_merged_and_inspected() {
    for name in ["llama", "gemma3"] {
        let place = Place::new();
        let (base, data) = (text(&format!("gguf/{name}.gguf")), text("pairs.jsonl"));
        let set = [
            format!("model.base={base}"),
            format!("data.train={data}"),
            "train.learning_rate=0.02".into(),
            "train.max_steps=6".into(),
            "output_dir=run".into(),
        ];
        let mut train = vec!["train", "-q"];
        place.write("run.yaml", "model: {base: x}\ndata: {train: x}\n");
        train.extend(["-c", "run.yaml"]);
        set.iter().for_each(|set| train.extend(["--set", set.as_str()]));
        place.run(&train).ok();
        let score =
            |model: &[&str]| place.run(&[&["score", "--data", &data, "--base"], model].concat()).json();
        let with = logps(&score(&[&base, "--adapter", "run/adapter"]));
        let moved = with.chunks(4).map(|row| (row[0] - row[2]).abs()).fold(0.0, f64::max);
        assert!(moved > 0.1, "{name}: the adapter does nothing");
        // The adapter records the file on which it was trained.
        let other = text(if name == "llama" { "gguf/llama-k.gguf" } else { "gguf/gemma2.gguf" });
        let refused = place.run(&["score", "--data", &data, "--base", &other, "--adapter", "run/adapter"]);
        assert_ne!(refused.code, Some(0));

        let merge = ["merge", "--base", &base, "--adapter", "run/adapter", "--output", "merged"];
        let ran = place.run(&merge);
        assert!(ran.stderr.contains("dequantised") && ran.stderr.contains("in bf16"), "{}", ran.stderr);
        assert!(ran.stderr.contains("maximum |Δlogit|"), "{}", ran.stderr);
        ran.ok();
        let merged = logps(&score(&["merged"]));
        // Weights are rounded to bf16 once more, and products are in bf16 on both sides.
        let policy = |rows: &[f64]| rows.chunks(4).flat_map(|row| [row[0], row[1]]).collect::<Vec<_>>();
        let apart = furthest(&policy(&merged), &policy(&with));
        assert!(apart < 0.02, "{name}: {apart}");
        for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
            assert!(place.path("merged").join(file).exists(), "{file}");
        }
        let config: Value = serde_json::from_slice(&place.read("merged/config.json")).unwrap();
        assert_eq!(config["torch_dtype"], "bfloat16");
        let inspected = &place.run(&["inspect", "--json", &base]).json()[0];
        assert_eq!(inspected["dtype"], if name == "llama" { "Q4_0" } else { "Q5_1" });
    }
}

#[test]
fn what_is_no_base_is_named() {
    let place = Place::new();
    place.write("broken.gguf", b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0");
    let ran = place.run(&["generate", "--base", "broken.gguf", "--prompt", "x"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("broken.gguf is not a whole GGUF file"), "{}", ran.stderr);
    assert!(ran.stderr.contains("claims 18446744073709551615 tensors"), "{}", ran.stderr);
}
