//! `merge --unmerge`: what is left is the base that the adapter was trained on, or the program says that it is not.

use serde_json::{Value, json};

use super::common::fixture;
use super::common::program::{Place, Ran};

fn text(path: &str) -> String {
    fixture(path).to_str().unwrap().to_string()
}

fn merge(place: &Place, base: &str, adapters: &[&str], output: &str, more: &[&str]) -> Ran {
    let mut args = vec!["merge", "--base", base, "--output", output];
    adapters.iter().for_each(|adapter| args.extend(["--adapter", adapter]));
    place.run(&[&args[..], more].concat())
}

/// Trains an adapter of llama.
fn train(place: &Place, run: &str, settings: &[(&str, Value)]) {
    let own = [("output_dir", json!(run)), ("train.learning_rate", json!(5e-3))];
    place.llama_recipe(&[&own[..], settings].concat());
    place.run(&["train", "-q", "-c", "run.yaml"]).ok();
}

#[test]
fn what_is_left_is_compared_with_the_base_that_the_adapter_notes() {
    let place = Place::new();
    train(&place, "run", &[]);
    let (base, other) = (text("models/llama"), text("models/llama/adapters/rslora"));
    let unmerge = |from: &str, adapter: &str, output: &str, more: &[&str]| {
        merge(&place, from, &[adapter], output, &[&["--unmerge"][..], more].concat())
    };
    for dtype in ["f32", "bf16"] {
        let [merged, back] = ["merged", "back"].map(|name| format!("{name}-{dtype}"));
        // Rounding to 16 bits loses more of so small a change than verification allows.
        merge(&place, &base, &["run"], &merged, &["--dtype", dtype, "--no-verify"]).ok();
        let ran = unmerge(&merged, "run", &back, &["--no-verify"]);
        assert!(ran.warnings().is_empty(), "{dtype}: {}", ran.stderr);
        ran.ok();
        // Taken off twice.
        let ran = unmerge(&back, "run", "twice", &["--no-verify"]);
        assert_eq!(ran.code, Some(1), "{dtype}: {}", ran.stderr);
        let words = "without the adapters is not the base that run was trained on";
        assert!(ran.stderr.contains(words) && ran.stderr.contains("--force"), "{dtype}: {}", ran.stderr);
        assert!(!place.path("twice").exists(), "{dtype}");
    }
    unmerge("merged-f32", "run", "verified", &[]).ok();
    // A model that holds another adapter too, which can be taken off with it.
    merge(&place, "merged-f32", &[&other], "both", &[]).ok();
    let ran = unmerge("both", "run", "one", &[]);
    assert!(ran.code == Some(1) && ran.stderr.contains("is not the base that run"), "{}", ran.stderr);
    merge(&place, "both", &["run", &other], "none", &["--unmerge"]).ok();
    let forced = unmerge("both", "run", "one", &["--force"]);
    assert!(forced.stderr.contains("kept because of --force"), "{}", forced.stderr);
    forced.ok();
    // An adapter of another program does not note its base.
    let ran = unmerge("both", &other, "rest", &[]);
    assert!(ran.stderr.contains("does not note the weights of its base"), "{}", ran.stderr);
    ran.ok();
}

#[test]
fn an_adapter_whose_merge_cannot_be_undone_is_refused() {
    let place = Place::new();
    train(&place, "lora", &[]);
    let base = text("models/llama");
    for (name, setting, words) in [
        ("dora", ("lora.use_dora", json!(true)), "has DoRA, which cannot be taken off again"),
        ("whole", ("lora.modules_to_save", json!(["lm_head"])), "which cannot be taken off again"),
        ("rows", ("lora.trainable_token_indices", json!([3, 4])), "which cannot be taken off again"),
    ] {
        train(&place, name, &[setting]);
        for adapters in [&[name][..], &["lora", name]] {
            let merged = format!("{name}-{}", adapters.len());
            merge(&place, &base, adapters, &merged, &[]).ok();
            for more in [&["--unmerge"][..], &["--unmerge", "--force"]] {
                let ran = merge(&place, &merged, adapters, "back", more);
                assert_eq!(ran.code, Some(1), "{adapters:?}: {}", ran.stderr);
                assert!(ran.stderr.contains(words), "{adapters:?}: {}", ran.stderr);
                assert!(ran.stderr.contains("use the base that"), "{adapters:?}: {}", ran.stderr);
                assert!(!place.path("back").exists(), "{adapters:?}");
            }
        }
        // What is left without the LoRA is not the base.
        let ran = merge(&place, &format!("{name}-2"), &["lora"], "back", &["--unmerge"]);
        let words = "is not the base that lora was trained on";
        assert!(ran.code == Some(1) && ran.stderr.contains(words), "{name}: {}", ran.stderr);
    }
}
