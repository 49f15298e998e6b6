//! Invalid configurations and weights of bases.

use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::train_refused;
use crate::common::fixture;
use crate::common::program::Place;

/// Copies a fixture to `model`, where it can be damaged, and writes a recipe that trains on it.
fn copy_of(name: &str) -> Place {
    let place = Place::new();
    place.model(name);
    place.recipe("model".as_ref(), &fixture("pairs.jsonl"), &[]);
    place
}

fn with_config(change: impl FnOnce(&mut Value), parts: &[&str]) {
    let place = copy_of("llama");
    place.edit("model/config.json", change);
    train_refused(&place, 1, parts);
}

fn with_weights(change: impl FnOnce(Vec<u8>) -> Vec<u8>, parts: &[&str]) {
    let place = copy_of("llama");
    place.write("model/model.safetensors", change(place.read("model/model.safetensors")));
    train_refused(&place, 1, &[&["model.safetensors"], parts].concat());
}

#[test]
fn configurations() {
    with_config(|c| c["model_type"] = json!("mamba"), &["config.json", "model_type", "mamba", "recurrent"]);
    with_config(|c| c["model_type"] = json!("lama"), &["config.json", "model_type", "lama", "llama"]);
    with_config(
        |c| drop(c.as_object_mut().unwrap().remove("hidden_size")),
        // transformers uses 4096 if the file gives no value.
        &["model.embed_tokens.weight", "[320, 32]", "[320, 4096]"],
    );
    with_config(|c| c["num_hidden_layers"] = json!("3"), &["config.json", "num_hidden_layers", "\"3\""]);
    with_config(|c| c["num_hidden_layers"] = json!(0), &["config.json", "num_hidden_layers", "0"]);
    with_config(|c| c["num_key_value_heads"] = json!(3), &["config.json", "num_key_value_heads", "3"]);
    let indivisible = |c: &mut Value| {
        c.as_object_mut().unwrap().remove("head_dim");
        c["num_attention_heads"] = json!(5);
        c["num_key_value_heads"] = json!(5);
    };
    with_config(indivisible, &["config.json", "num_attention_heads: 5 does not divide the hidden size 32"]);
    with_config(|c| c["intermediate_size"] = json!(57), &["mlp", "[56, 32]", "57"]);
    with_config(|c| c["num_hidden_layers"] = json!(4), &["model.layers.3"]);
    with_config(|c| c["rope_scaling"] = json!({"rope_type": "warped"}), &["config.json", "rope", "warped"]);
    with_config(|c| c["hidden_act"] = json!("blue"), &["config.json", "hidden_act", "blue"]);
    with_config(|c| c["hidden_size"] = json!(1u64 << 40), &["config.json", "hidden_size"]);
}

#[test]
fn files_that_are_no_configuration() {
    for (text, part) in [("{\"model_type\": \"llama\",", "line 1"), ("[]", "JSON object"), ("", "EOF")] {
        let place = copy_of("llama");
        place.write("model/config.json", text);
        train_refused(&place, 1, &["config.json", part]);
    }
    let place = copy_of("llama");
    std::fs::remove_file(place.path("model/config.json")).unwrap();
    train_refused(&place, 2, &["model holds no config.json", "a base is a directory"]);
    place.write("model/config.json", "[".repeat(100_000));
    train_refused(&place, 1, &["config.json"]);
}

#[test]
fn damaged_weights() {
    with_weights(|bytes| bytes[..bytes.len() / 2].to_vec(), &["not a whole safetensors file"]);
    with_weights(|bytes| bytes[..5].to_vec(), &[]);
    with_weights(|_| Vec::new(), &[]);
    let huge = |mut bytes: Vec<u8>| {
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes
    };
    with_weights(huge, &[]);
    let gigabytes = |mut bytes: Vec<u8>| {
        bytes[..8].copy_from_slice(&(90u64 << 20).to_le_bytes());
        bytes
    };
    with_weights(gigabytes, &[]);
    let place = copy_of("llama");
    place.write("model/model.safetensors", [&[2, 0, 0, 0, 0, 0, 0, 0], &b"{}"[..]].concat());
    train_refused(&place, 1, &["model has no tensor model.embed_tokens.weight"]);
    let place = copy_of("llama");
    std::fs::remove_file(place.path("model/model.safetensors")).unwrap();
    train_refused(&place, 1, &["model.safetensors"]);
}

#[test]
fn indices_stay_in_their_directory() {
    let index = "model/model.safetensors.index.json";
    for escape in ["../model-00001-of-00006.safetensors", "/etc/hostname", "a/../../x.safetensors"] {
        let place = copy_of("llama-sharded");
        place.edit(index, |v| v["weight_map"]["lm_head.weight"] = json!(escape));
        train_refused(&place, 1, &["index.json", escape]);
    }
    let place = copy_of("llama-sharded");
    place.edit(index, |v| v["weight_map"]["lm_head.weight"] = json!("gone.safetensors"));
    train_refused(&place, 2, &["gone.safetensors"]);
    place.write(index, "{\"weight_map\": 3}");
    train_refused(&place, 1, &["index.json", "weight_map"]);
    std::fs::remove_file(place.path("model/model-00002-of-00006.safetensors")).unwrap();
    place.write(index, std::fs::read(fixture("models/llama-sharded/model.safetensors.index.json")).unwrap());
    train_refused(&place, 2, &["model-00002-of-00006.safetensors"]);
}

#[test]
fn weights_that_are_no_numbers_are_told_with_the_rows() {
    let place = copy_of("llama");
    let mut bytes = place.read("model/model.safetensors");
    let name = "model.layers.1.mlp.down_proj.weight";
    let at = {
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        tensors.tensor(name).unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize
    };
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    place.write("model/model.safetensors", &bytes);
    train_refused(&place, 1, &[name, "NaN", "which is not a valid weight"]);
    // A finite number that soon overflows.
    bytes[at..at + 4].copy_from_slice(&f32::MAX.to_le_bytes());
    place.write("model/model.safetensors", &bytes);
    let ran = place.run(&["train", "-c", "run.yaml"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
    for part in ["not finite", "pairs.jsonl:", "error: "] {
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("panicked") && !place.path("run/adapter").exists(), "{}", ran.stderr);
}
