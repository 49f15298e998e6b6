//! Adapters that are damaged, belong to another base, or are of an unsupported kind.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::{refused, train_refused};
use crate::common::fixture;
use crate::common::program::{Place, copy};

const CONFIG: &str = "adapter/adapter_config.json";
const WEIGHTS: &str = "adapter/adapter_model.safetensors";

fn adapter_of(model: &str) -> Place {
    let place = Place::new();
    copy(&fixture("models").join(model).join("adapters/plain"), &place.path("adapter"));
    place
}

/// Requires that every command that reads adapters refuses this one.
fn refused_everywhere(place: &Place, base: &str, parts: &[&str]) {
    refused_with(place, base, 1, parts);
}

/// The same with another exit code.
fn refused_with(place: &Place, base: &str, code: i32, parts: &[&str]) {
    let (base, data) = (fixture("models").join(base), fixture("pairs.jsonl"));
    let (base, data) = (base.to_str().unwrap(), data.to_str().unwrap());
    let with = ["--base", base, "--adapter", "adapter"];
    refused(place, &[&["score", "--data", data], &with[..]].concat(), code, parts);
    refused(place, &[&["merge", "--output", "merged"], &with[..]].concat(), code, parts);
    assert!(!place.path("merged").exists());
    for key in ["model.adapter", "lora.init_from"] {
        place.recipe(base.as_ref(), data.as_ref(), &[(key, json!("adapter"))]);
        train_refused(place, code, parts);
    }
}

fn with_config(change: impl FnOnce(&mut Value), parts: &[&str]) {
    let place = adapter_of("llama");
    place.edit(CONFIG, change);
    refused_everywhere(&place, "llama", parts);
}

/// Rewrites the adapter's tensors with names changed by `rename`; `None` drops a tensor.
fn rename_tensors(place: &Place, rename: impl Fn(&str) -> Option<String>) {
    let bytes = place.read(WEIGHTS);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let kept: BTreeMap<String, TensorView> =
        tensors.tensors().into_iter().filter_map(|(name, view)| Some((rename(&name)?, view))).collect();
    place.write(WEIGHTS, safetensors::serialize(kept, None).unwrap());
}

#[test]
fn kinds_that_are_not_honoured() {
    with_config(|c| c["use_dora"] = json!(true), &["adapter_config.json", "use_dora"]);
    with_config(|c| c["modules_to_save"] = json!(["lm_head"]), &["modules_to_save"]);
    with_config(|c| c["bias"] = json!("all"), &["bias", "all"]);
    with_config(|c| c["peft_type"] = json!("IA3"), &["peft_type", "IA3", "LORA"]);
    with_config(|c| c["r"] = json!(0), &["adapter_config.json", "r is 0"]);
    with_config(|c| c["r"] = json!(9), &["has rank 4", "r = 9"]);
}

#[test]
fn tensors_that_do_not_fit() {
    let some = "base_model.model.model.layers.1.self_attn.q_proj";
    let place = adapter_of("llama");
    rename_tensors(&place, |name| (name != format!("{some}.lora_B.weight")).then(|| name.to_string()));
    refused_everywhere(&place, "llama", &["model.layers.1.self_attn.q_proj", "lora_B"]);
    let place = adapter_of("llama");
    rename_tensors(&place, |name| {
        Some(name.replace("layers.1.self_attn.q_proj", "layers.1.self_attn.qq_proj"))
    });
    refused_everywhere(&place, "llama", &["qq_proj"]);
    let place = adapter_of("llama");
    rename_tensors(&place, |name| Some(name.replace("layers.2", "layers.7")));
    refused_everywhere(&place, "llama", &["layers.7"]);
    refused_everywhere(&adapter_of("qwen3"), "gpt2", &["adapter"]);
}

#[test]
fn damaged_files() {
    let place = adapter_of("llama");
    let bytes = place.read(WEIGHTS);
    place.write(WEIGHTS, &bytes[..bytes.len() - 100]);
    refused_everywhere(&place, "llama", &["adapter_model.safetensors"]);
    let mut broken = bytes.clone();
    let end = broken.len();
    broken[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    place.write(WEIGHTS, broken);
    refused_everywhere(&place, "llama", &["inf", "damaged"]);
    std::fs::remove_file(place.path(WEIGHTS)).unwrap();
    refused_with(&place, "llama", 2, &["adapter_model.safetensors"]);
    place.write(CONFIG, "{\"r\": ");
    refused_everywhere(&place, "llama", &["adapter_config.json"]);
    std::fs::remove_dir_all(place.path("adapter")).unwrap();
    refused_with(&place, "llama", 2, &["there is no adapter adapter"]);
}

#[test]
fn of_another_base() {
    let place = Place::new();
    place.llama_recipe(&[]);
    place.run(&["train", "-c", "run.yaml"]).ok();
    std::fs::rename(place.path("run/adapter"), place.path("adapter")).unwrap();
    std::fs::remove_dir_all(place.path("run")).unwrap();
    // Other shapes: both adapters are named before the mismatch.
    let ran = place.run(&[
        "merge",
        "--base",
        fixture("models/qwen2").to_str().unwrap(),
        "--adapter",
        "adapter",
        "--output",
        "merged",
    ]);
    let first = ran.stderr.lines().next().unwrap_or_default();
    assert!(
        ran.code == Some(1) && first.contains("models/llama (") && first.contains("models/qwen2 has"),
        "{first}"
    );
    // The same shapes with other numbers.
    let llama = fixture("models/llama");
    std::fs::create_dir(place.path("other")).unwrap();
    for path in
        std::fs::read_dir(&llama).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
    {
        let name = path.file_name().unwrap().to_str().unwrap();
        place.write(&format!("other/{name}"), std::fs::read(&path).unwrap());
    }
    let mut weights = place.read("other/model.safetensors");
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    for number in weights[8 + header..].chunks_exact_mut(4).step_by(2) {
        number[3] ^= 0x80;
    }
    place.write("other/model.safetensors", weights);
    let base = place.path("other");
    let base = base.to_str().unwrap();
    refused_everywhere(&place, base, &["was trained on", llama.to_str().unwrap(), base]);
    let args = ["merge", "--base", base, "--adapter", "adapter", "--output", "merged", "--force"];
    place.run(&args).ok();
}
