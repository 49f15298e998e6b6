//! An adapter and the bases that it is used with: its own, the same weights in another type, and others.

use dpo_lora::adapter::peft;
use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::Place;

#[test]
fn an_adapter_of_a_quantised_base_works_on_its_twin_with_one_warning() {
    let place = Place::new();
    let (whole, data) = (fixture("models/llama"), fixture("pairs.jsonl"));
    let (whole, data) = (whole.to_str().unwrap(), data.to_str().unwrap());
    let adapter = format!("{whole}/adapters/plain");
    let quantise =
        ["merge", "--format", "gguf", "--dtype", "q8_0", "--weights", "0", "--output", "twin.gguf"];
    place.run(&[&quantise[..], &["--base", whole, "--adapter", &adapter]].concat()).ok();
    place.recipe("twin.gguf".as_ref(), data.as_ref(), &[("train.max_steps", json!(2))]);
    place.run(&["train", "-c", "run.yaml"]).ok();
    let score = |base: &str, more: &[&str]| {
        place.run(&[&["score", "--base", base, "--data", data, "--adapter", "run"], more].concat())
    };
    let own = score("twin.gguf", &[]);
    assert_eq!(own.warnings(), [""; 0], "{}", own.stderr);
    own.ok();
    let twin = score(whole, &[]);
    let warnings = twin.warnings();
    assert_eq!(warnings.len(), 1, "{}", twin.stderr);
    for words in [
        "warning: ",
        "trained on twin.gguf, stored as Q8_0",
        "seems to hold the same weights stored as F32",
        "is used",
    ] {
        assert!(warnings[0].contains(words), "{words} in {}", warnings[0]);
    }
    twin.ok();
    // The same sizes and other weights: refused, unless the user insists.
    std::fs::create_dir(place.path("other")).unwrap();
    crate::common::program::copy(whole.as_ref(), &place.path("other"));
    let weights = place.path("other/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let numbers = bytes.len() / 2;
    // Every second sign bit of the second half is flipped.
    bytes[numbers..].chunks_mut(8).for_each(|chunk| *chunk.last_mut().unwrap() ^= 0x80);
    std::fs::write(&weights, bytes).unwrap();
    let other = score("other", &[]);
    assert!(other.code == Some(1) && other.stderr.contains("--force"), "{}", other.stderr);
    let forced = score("other", &["--force"]);
    assert!(forced.stderr.contains("it is used because of --force"), "{}", forced.stderr);
    forced.ok();
}

/// The fingerprint of a base is of its tensors; what `config.json` says counts as much.
#[test]
fn another_setting_of_the_base_has_reference_log_probs_of_its_own_and_is_refused_by_its_adapters() {
    let place = Place::new();
    let data = fixture("pairs.jsonl");
    for copy in ["model", "copy"] {
        crate::common::program::copy(&fixture("models/llama"), &place.path(copy));
    }
    let train = |base: &str| {
        place.recipe(base.as_ref(), &data, &[("train.max_steps", json!(1))]);
        let output = format!("output_dir=runs/{base}");
        let ran = place.run(&["train", "-c", "run.yaml", "--overwrite", "--set", &output]);
        let said = ran.stderr.clone();
        ran.ok();
        let loss = place.metrics(&format!("runs/{base}"))[0]["loss"].as_f64().unwrap();
        assert!((loss - std::f64::consts::LN_2).abs() < 1e-6, "{loss}: {said}");
        said
    };
    train("model");
    // A copy shares the log-probs, also if it says what changes no result; another setting has its own.
    place.edit("copy/config.json", |config| config["max_position_embeddings"] = json!(600));
    assert!(train("copy").contains(" pairs are cached; the others"));
    place.edit("copy/config.json", |config| config["rms_norm_eps"] = json!(0.1));
    assert!(!train("copy").contains("are cached"));

    let score = |base: &str, more: &[&str]| {
        let data = data.to_str().unwrap();
        let args = ["score", "--base", base, "--data", data, "--adapter", "runs/model"];
        place.run(&[&args[..], more].concat())
    };
    let changed = score("copy", &[]);
    assert_eq!((changed.code, changed.stdout.as_str()), (Some(1), ""), "{}", changed.stderr);
    for words in
        ["copy/config.json: final_norm_eps was 0.00001, is 0.1; norm_eps was 0.00001, is 0.1", "--force"]
    {
        assert!(changed.stderr.contains(words), "{words} in {}", changed.stderr);
    }
    let forced = score("copy", &["--force"]);
    assert!(forced.stderr.contains("it is used because of --force"), "{}", forced.stderr);
    forced.ok();
    place.edit("copy/config.json", |config| config["rms_norm_eps"] = json!(1e-5));
    let same = score("copy", &[]);
    assert_eq!(same.warnings(), [""; 0], "{}", same.stderr);
    same.ok();
}

#[test]
fn a_base_of_zeros_is_refused() {
    let place = Place::new();
    place.model("llama");
    let mut bytes = place.read("model/model.safetensors");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].fill(0);
    place.write("model/model.safetensors", bytes);
    place.recipe("model".as_ref(), &fixture("pairs.jsonl"), &[]);
    let ran = place.run(&["train", "-c", "run.yaml"]);
    assert_ne!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("holds nothing but zeros (model.embed_tokens.weight"), "{}", ran.stderr);
}

#[test]
fn training_insists_with_force_on_an_adapter_of_another_base() {
    let place = Place::new();
    place.llama_recipe(&[("train.max_steps", json!(1))]);
    place.run(&["train", "-c", "run.yaml"]).ok();
    crate::common::program::copy(&fixture("models/llama"), &place.path("model"));
    let weights = place.path("model/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 0x80;
    std::fs::write(&weights, bytes).unwrap();
    place.recipe(
        "model".as_ref(),
        &fixture("pairs.jsonl"),
        &[("train.max_steps", json!(1)), ("lora.init_from", json!("run")), ("output_dir", json!("next"))],
    );
    let refused = place.run(&["train", "-c", "run.yaml"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("--force"), "{}", refused.stderr);
    let forced = place.run(&["train", "-c", "run.yaml", "--force"]);
    assert!(forced.stderr.contains("because of --force"), "{}", forced.stderr);
    forced.ok();
}

#[test]
fn the_adapter_names_its_base_by_the_hub_id_that_is_set() {
    let place = Place::new();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    place.llama_recipe(&[("train.max_steps", json!(1)), ("model.base_name", json!("owner/name"))]);
    place.run(&["train", "-c", "run.yaml"]).ok();
    let named = |run: &str| -> Value {
        let config: Value =
            serde_json::from_slice(&place.read(&format!("{run}/adapter/adapter_config.json"))).unwrap();
        config["base_model_name_or_path"].clone()
    };
    assert_eq!(named("run"), "owner/name");
    // A directory of the Hub's cache is known by its place.
    let snapshot = format!("hub/models--someone--something/snapshots/{commit}");
    crate::common::program::copy(&fixture("models/llama"), &place.path(&snapshot));
    let more = [("train.max_steps", json!(1)), ("output_dir", json!("cached"))];
    place.recipe(snapshot.as_ref(), &fixture("pairs.jsonl"), &more);
    place.run(&["train", "-c", "run.yaml"]).ok();
    assert_eq!(named("cached"), "someone/something");
    let metadata = peft::metadata(&place.path("cached/adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(metadata[peft::REVISION_KEY], commit);
}

/// As PEFT and TRL leave it.
#[test]
fn the_adapter_has_a_model_card_and_the_tokenizer() {
    let place = Place::new();
    let more = [
        ("train.max_steps", json!(4)),
        ("data.eval", json!(0.3)),
        ("model.base_name", json!("owner/name")),
        ("data.chat_template", json!("{% for m in messages %}{{ m.content }}{% endfor %}")),
    ];
    place.llama_recipe(&more);
    place.run(&["train", "-c", "run.yaml"]).ok();
    let card = String::from_utf8(place.read("run/adapter/README.md")).unwrap();
    for words in [
        "---\nbase_model: owner/name\nlibrary_name: peft\n",
        "- base_model:adapter:owner/name\n",
        "in 4 steps",
        "| `lora.r` | 3 |",
        "| chosen completion likelier, of ",
        "the loss `sigmoid`",
    ] {
        assert!(card.contains(words), "{words} in {card}");
    }
    let base = fixture("models/llama");
    assert_eq!(place.read("run/adapter/tokenizer.json"), std::fs::read(base.join("tokenizer.json")).unwrap());
    let template = String::from_utf8(place.read("run/adapter/chat_template.jinja")).unwrap();
    assert!(template.starts_with("{% for m in messages %}"), "{template}");
    let header = card.split("---\n").nth(1).unwrap();
    let header: serde_yaml::Value = serde_yaml::from_str(header).unwrap();
    assert_eq!(header["pipeline_tag"], serde_yaml::Value::from("text-generation"));
    // A checkpoint needs neither.
    assert!(!place.path("run/checkpoints/step-4/adapter/README.md").exists());
}

/// The rewards of a loss without a reference are not 0 before the first step; a resumed run still knows them.
#[test]
fn a_run_on_a_frozen_adapter_says_where_it_began_and_names_both_adapters() {
    let place = Place::new();
    place.model("llama");
    let more = [
        ("model.adapter", json!("model/adapters/plain")),
        ("objective", json!({"loss_type": "simpo"})),
        ("data.eval", json!(0.3)),
    ];
    place.recipe(std::path::Path::new("model"), &fixture("pairs.jsonl"), &more);
    let ran = place.run(&["train", "-c", "run.yaml"]);
    let both = "--adapter model/adapters/plain --adapter run/adapter";
    assert_eq!(ran.stderr.matches(both).count(), 2, "generate and export in {}", ran.stderr);
    ran.ok();
    let before = place.metrics("run")[0]["eval_rewards/margins"].as_f64().unwrap();
    assert!(before.abs() > 1e-3, "{before}");
    let told = |place: &Place| {
        let card = String::from_utf8(place.read("run/adapter/README.md")).unwrap();
        card.contains(&format!("| reward margin | {before:.4} | "))
    };
    assert!(told(&place));
    std::fs::remove_dir_all(place.path("run/adapter")).unwrap();
    place.run(&["train", "-c", "run.yaml", "--resume"]).ok();
    assert!(told(&place));
}

#[test]
fn an_exported_gguf_adapter_says_how_it_is_served() {
    let place = Place::new();
    let base = fixture("models/llama");
    let adapter = base.join("adapters/plain");
    let export = |output: &str, more: &[&str]| {
        let with = ["--base", base.to_str().unwrap(), "--adapter", adapter.to_str().unwrap()];
        place.run(&[&["export", "--format", "gguf", "--output", output], &with[..], more].concat())
    };
    let ran = export("reviews.gguf", &[]);
    for words in
        ["llama-server -m BASE.gguf --lora reviews.gguf", "ollama create reviews -f reviews.Modelfile"]
    {
        assert!(ran.stderr.contains(words), "{words} in {}", ran.stderr);
    }
    ran.ok();
    let text = String::from_utf8(place.read("reviews.Modelfile")).unwrap();
    assert!(
        text.contains(&format!("FROM {}", base.display())) && text.ends_with("ADAPTER ./reviews.gguf\n"),
        "{text}"
    );
    std::fs::remove_file(place.path("reviews.gguf")).unwrap();
    let again = export("reviews.gguf", &[]);
    assert!(
        again.code == Some(2) && again.stderr.contains("reviews.Modelfile already exists"),
        "{}",
        again.stderr
    );
    export("reviews.gguf", &["--force"]).ok();
}
