//! Adapters written by PEFT that were once misread or refused (`tests/fixtures/cases`), compared with transformers 5.24
//! and PEFT 0.21; also `export --for`.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::fixture;
use common::program::{Place, copy};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

const ALPHA: &str = "cases/alpha-pattern-wrapper-path";
const HEAD: &str = "cases/head-lora-base-layer";

fn text(path: &str) -> String {
    fixture(path).to_str().unwrap().to_string()
}

/// The log-probs of chosen and rejected of each pair. Both cases have the same pairs.
fn logps(place: &Place, model: &[&str]) -> Vec<f64> {
    let data = text(&format!("{ALPHA}/pairs.jsonl"));
    let lines = place.run(&[&["score", "--dtype", "f32", "--data", &data], model].concat()).json();
    let sides = ["chosen_logp", "rejected_logp"];
    lines.iter().flat_map(|line| sides.map(|side| line[side].as_f64().unwrap())).collect()
}

fn expected(rows: &Value) -> Vec<f64> {
    let rows = rows.as_array().unwrap();
    rows.iter().flat_map(|row| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap())).collect()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn a_pattern_by_the_whole_path_of_a_model_that_also_sees() {
    let place = Place::new();
    let (base, adapter) = (text(&format!("{ALPHA}/base")), text(&format!("{ALPHA}/adapter")));
    let want = expected(&common::json(&format!("{ALPHA}/expected.json"))["logps"]);
    let got = logps(&place, &["--base", &base, "--adapter", &adapter]);
    assert!(largest_difference(&got, &want) < 1e-3, "{got:?} for {want:?}");
    // Without the pattern the sums would be off by nats.
    copy(Path::new(&adapter), &place.path("plain"));
    place.edit("plain/adapter_config.json", |config| config["alpha_pattern"] = Value::Null);
    let plain = logps(&place, &["--base", &base, "--adapter", "plain"]);
    assert!(largest_difference(&plain, &want) > 1.0);
    // The adapter exported again is the same, under the names of the text model.
    let export = [
        "export",
        "--base",
        &base,
        "--adapter",
        &adapter,
        "--format",
        "peft",
        "--for",
        "vllm",
        "--output",
        "out",
    ];
    assert!(place.run(&export).ok().contains("tested with vLLM"));
    let again = logps(&place, &["--base", &base, "--adapter", "out"]);
    assert!(largest_difference(&again, &got) < 1e-9, "{again:?} for {got:?}");
}

#[test]
fn a_head_with_its_base_layer_is_merged_as_peft_computes_it() {
    let place = Place::new();
    let (base, adapter) = (text(&format!("{HEAD}/base")), text(&format!("{HEAD}/adapter")));
    let want = expected(&common::json(&format!("{HEAD}/expected.json")));
    place
        .run(&["merge", "--dtype", "f32", "--base", &base, "--adapter", &adapter, "--output", "merged"])
        .ok();
    let got = logps(&place, &["--base", "merged"]);
    assert!(largest_difference(&got, &want) < 1e-3, "{got:?} for {want:?}");
    for args in [
        &["inspect", &adapter, "--base", &base][..],
        &["inspect", &adapter],
        &["export", "--base", &base, "--adapter", &adapter, "--format", "peft", "--output", "peft"],
        &["export", "--base", &base, "--adapter", &adapter, "--format", "gguf", "--output", "a.gguf"],
    ] {
        let ran = place.run(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
    }
    // Programs that apply the adapter without merging accept no head, neither low-rank nor whole.
    let scored = place.run(&[
        "score",
        "--base",
        &base,
        "--adapter",
        &adapter,
        "--data",
        &text(&format!("{ALPHA}/pairs.jsonl")),
    ]);
    assert!(scored.code == Some(1) && scored.stderr.contains("lm_head"), "{}", scored.stderr);
}

/// Writes the case's adapter with another whole weight of its head.
fn with_base_layer(
    place: &Place,
    name: &str,
    change: impl Fn(&str, &TensorView) -> (String, Dtype, Vec<usize>, Vec<u8>),
) {
    copy(&fixture(HEAD).join("adapter"), &place.path(name));
    let bytes = place.read(&format!("{name}/adapter_model.safetensors"));
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let changed: Vec<_> = tensors
        .tensors()
        .iter()
        .map(|(key, view)| match key.contains("base_layer") {
            true => change(key, view),
            false => (key.clone(), view.dtype(), view.shape().to_vec(), view.data().to_vec()),
        })
        .collect();
    let views = changed
        .iter()
        .map(|(key, dtype, shape, bytes)| (key, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    place.write(&format!("{name}/adapter_model.safetensors"), safetensors::serialize(views, None).unwrap());
}

#[test]
fn a_head_that_is_not_the_bases_is_refused_by_that_reason() {
    let place = Place::new();
    let base = text(&format!("{HEAD}/base"));
    let merge = |adapter: &str, more: &[&str]| {
        let args = [
            "merge",
            "--base",
            &base,
            "--adapter",
            adapter,
            "--output",
            &format!("merged-{adapter}"),
            "--no-verify",
        ];
        place.run(&[&args[..], more].concat())
    };
    with_base_layer(&place, "other", |key, view| {
        let mut bytes = view.data().to_vec();
        bytes[4 * (32 * 7 + 3)] ^= 1;
        (key.into(), view.dtype(), view.shape().to_vec(), bytes)
    });
    let ran = merge("other", &[]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    for word in ["lm_head.base_layer.weight", "1 of 6496", "row 7", "--force"] {
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
    let forced = merge("other", &["--force"]);
    assert!(forced.code == Some(0) && forced.stderr.contains("row 7"), "{}", forced.stderr);
    with_base_layer(&place, "resized", |key, view| {
        (key.into(), view.dtype(), vec![204, 32], [view.data(), &[0; 128]].concat())
    });
    let ran = merge("resized", &[]);
    assert!(
        ran.code == Some(1) && ran.stderr.contains("resized") && ran.stderr.contains("[204, 32]"),
        "{}",
        ran.stderr
    );
    // The base's numbers rounded to 16 bits, under the name that a resized vocabulary has.
    with_base_layer(&place, "narrow", |key, view| {
        let numbers = view.data().chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap()));
        let bytes = numbers.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect();
        (key.replace("base_layer.", ""), Dtype::BF16, view.shape().to_vec(), bytes)
    });
    assert_eq!(merge("narrow", &[]).code, Some(0));
}

#[test]
fn export_for_a_program_that_does_not_serve_it_is_an_error() {
    let place = Place::new();
    let (base, plain, rslora) =
        (text("models/llama"), text("models/llama/adapters/plain"), text("models/llama/adapters/rslora"));
    let export = |adapter: &str, format: &str, more: &[&str]| {
        let args = ["export", "--base", &base, "--adapter", adapter, "--format", format, "--output"];
        place.run(&[&args[..], more].concat())
    };
    let ran = export(&rslora, "peft", &["a", "--for", "sglang"]);
    assert!(
        ran.code == Some(2) && ran.stderr.contains("SGLang") && ran.stderr.contains("--fold-scale"),
        "{}",
        ran.stderr
    );
    assert!(!place.path("a").exists());
    assert_eq!(export(&rslora, "peft", &["a", "--for", "sglang", "--fold-scale"]).code, Some(0));
    assert_eq!(export(&rslora, "peft", &["b", "--for", "sglang", "--force"]).code, Some(0));
    let ran = export(&plain, "gguf", &["c.gguf", "--for", "vllm"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("--format peft"), "{}", ran.stderr);
    for program in ["transformers", "vllm", "sglang"] {
        let told = export(&plain, "peft", &[&format!("of-{program}"), "--for", program, "--json"]).json();
        let servers = told[0]["servers"].as_array().unwrap();
        assert!(servers.iter().all(|server| server["checked"].as_str().unwrap().contains("source code")
            || server["checked"].as_str().unwrap().contains("tested with")));
    }
}
