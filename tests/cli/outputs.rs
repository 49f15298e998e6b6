//! Outputs take the place of nothing that is read, and of nothing that the same command has not written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::{Place, Ran, copy};

/// A base, adapters, a run, data, a folder with an adapter in it, and files of other kinds.
fn place() -> Place {
    let place = Place::new();
    copy(&fixture("models/llama"), &place.path("base"));
    for adapter in ["adapter", "run/adapter", "merged/adapter"] {
        copy(&fixture("models/llama/adapters/plain"), &place.path(adapter));
    }
    std::fs::copy(fixture("pairs.jsonl"), place.path("pairs.jsonl")).unwrap();
    place.write("run/config.yaml", "seed: 1\n");
    place.write("run/metrics.jsonl", "{\"step\":1,\"loss\":0.5}\n");
    place.write("run/skipped.jsonl", place.read("pairs.jsonl"));
    place.write("merged/config.json", "{}");
    place.write("notes.txt", "a thesis");
    std::fs::create_dir(place.path("home")).unwrap();
    place.write("home/notes.txt", "a thesis");
    #[cfg(unix)]
    std::os::unix::fs::symlink("base", place.path("link")).unwrap();
    place
}

/// Every file with its bytes, except those of the cache.
fn files(directory: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true if path.ends_with("cache") || path.is_symlink() => {}
            true => files(&path, found),
            false => drop(found.insert(path.clone(), std::fs::read(&path).unwrap())),
        }
    }
}

fn all(place: &Place) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    files(&place.path(""), &mut found);
    found
}

fn run(place: &Place, line: &str) -> Ran {
    place.run(&line.split(' ').collect::<Vec<_>>())
}

#[test]
fn what_is_read_and_what_is_of_another_kind_is_not_replaced() {
    let place = place();
    let score = "score --base base --adapter adapter --data pairs.jsonl --output";
    let export = "export --base base --adapter adapter --force --format";
    let compose = "merge --base base --adapter adapter --force --output-adapter";
    let merge = "merge --base base --adapter adapter --force --output";
    let init = "init --base base --data pairs.jsonl --no-timing --force --output";
    let before = all(&place);
    for (command, output, words) in [
        (score, "pairs.jsonl", "is one of the inputs"),
        (score, "./base/../pairs.jsonl", "is one of the inputs"),
        (score, "base/model.safetensors", "exists and is not a file of scores"),
        #[cfg(unix)]
        (score, "link/config.json", "exists and is not a file of scores"),
        (score, "notes.txt", "exists and is not a file of scores"),
        (score, "run/metrics.jsonl", "exists and is not a file of scores"),
        ("report run --output", "run/metrics.jsonl", "is not a report"),
        ("report run --output", "notes.txt", "is not a report"),
        ("data show pairs.jsonl --html", "pairs.jsonl", "is one of the inputs"),
        ("data show pairs.jsonl --base base --html", "base/config.json", "is not a page of records"),
        ("data show pairs.jsonl --html", "notes.txt", "is not a page of records"),
        ("data convert pairs.jsonl -o", "pairs.jsonl", "is one of the inputs"),
        ("data convert pairs.jsonl -o", "run/metrics.jsonl", "is not a file of converted records"),
        ("collect pairs.jsonl --base base --output", "pairs.jsonl", "is one of the inputs"),
        (init, "pairs.jsonl", "is one of the inputs"),
        (init, "base/tokenizer_config.json", "is not a configuration"),
        (init, "notes.txt", "is not a configuration"),
        (init, "run/config.yaml", "is the configuration that a run keeps"),
        (export, "peft --output base", "is the base or contains it"),
        (export, "mlx --output adapter", "is the adapter or contains it"),
        (export, "peft --output .", "is the base or contains it"),
        (export, "peft --output run", "holds no adapter_config.json"),
        (export, "mlx --output home", "holds no adapter_config.json"),
        (export, "gguf --output base/config.json", "is not a GGUF adapter"),
        (compose, "base", "is the base or contains it"),
        (compose, "adapter", "is the adapter or contains it"),
        (compose, ".", "is the base or contains it"),
        (compose, "home", "holds no adapter_config.json"),
        (merge, "adapter", "is the adapter or contains it"),
        (merge, "merged --format gguf", "is a directory"),
        (merge, "notes.txt --format gguf", "is not a GGUF model"),
        (merge, "pairs.jsonl --format gguf --data pairs.jsonl", "is one of the inputs"),
        (
            "merge --base base --adapter merged/adapter --force --output",
            "merged",
            "or contains it (merged/adapter)",
        ),
        (merge, "merged --no-verify", "no part of the model that is written: adapter"),
    ] {
        let ran = run(&place, &format!("{command} {output}"));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{command} {output}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{command} {output}: {}", ran.stderr);
    }
    assert_eq!(all(&place).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert!(all(&place) == before, "a file was changed");
}

#[test]
fn the_same_command_writes_again() {
    let place = place();
    for line in [
        "score --base base --data pairs.jsonl --output scores.jsonl",
        "data show pairs.jsonl --html page.html",
        "data convert pairs.jsonl -o canonical.jsonl",
        "report run",
        "report run --output page-of-run.html",
        "init --base base --data pairs.jsonl --no-timing --force --output new.yaml",
        "export --base base --adapter adapter --force --format mlx --output of-mlx",
        "export --base base --adapter adapter --force --format gguf --output a.gguf",
        "merge --base base --adapter adapter --no-verify --force --output whole",
        "merge --base base --adapter adapter --no-verify --force --format gguf --output m.gguf",
    ] {
        for _ in 0..2 {
            run(&place, line).ok();
        }
    }
    // An empty file, as mktemp makes it, is no loss, and a device is none.
    place.write("empty", "");
    run(&place, "score --base base --data pairs.jsonl --output empty").ok();
    assert_eq!(place.read("empty"), place.read("scores.jsonl"));
    run(&place, "score --base base --data pairs.jsonl --output /dev/null").ok();
    // A model is no adapter, and the file that is read is not replaced.
    for (line, words) in [
        (
            "export --base base --adapter adapter --force --format gguf --output m.gguf",
            "is not a GGUF adapter",
        ),
        ("merge --base base --adapter adapter --force --format gguf --output a.gguf", "is not a GGUF model"),
        ("merge --base base --adapter a.gguf --force --format gguf --output a.gguf", "is the adapter"),
    ] {
        let ran = run(&place, line);
        assert!(ran.code == Some(2) && ran.stderr.contains(words), "{line}: {}", ran.stderr);
    }
}

#[test]
fn a_run_that_starts_over_keeps_what_it_reads() {
    let place = place();
    let train = ["train", "-q", "-c", "run.yaml", "--overwrite"];
    let before = all(&place);
    for (key, value, told) in [
        ("model.adapter", "run/adapter", "model.adapter is run/adapter"),
        ("model.adapter", "run", "model.adapter is run,"),
        ("lora.init_from", "run/adapter", "lora.init_from is run/adapter"),
        ("data.train", "run/skipped.jsonl", "data.train is run/skipped.jsonl"),
        ("data.eval", "run/*.jsonl", "data.eval is run/*.jsonl"),
    ] {
        place.recipe(&place.path("base"), &place.path("pairs.jsonl"), &[(key, json!(value))]);
        let ran = place.run(&train);
        assert_eq!(ran.code, Some(2), "{key}: {}", ran.stderr);
        assert!(
            ran.stderr.contains(told) && ran.stderr.contains("--overwrite would remove"),
            "{}",
            ran.stderr
        );
        std::fs::remove_file(place.path("run.yaml")).unwrap();
        assert!(all(&place) == before, "{key}: a file was changed");
    }
    place.recipe(&place.path("base"), &place.path("pairs.jsonl"), &[("train.max_steps", json!(1))]);
    place.run(&train).ok();
    assert!(!place.path("run/skipped.jsonl").exists() && place.path("run/adapter").exists());
}

#[test]
fn scores_are_those_of_pairs() {
    let place = place();
    let (list, pair) = (
        ["b", "c", "d"].map(|text| format!(" {text}")),
        json!({"prompt": "a", "chosen": " b", "rejected": " c"}),
    );
    place.write("ranked.jsonl", format!("{}\n", json!({"prompt": "a", "completions": list})));
    place.write("judged.jsonl", format!("{}\n", json!({"prompt": "a", "completion": " b", "label": true})));
    place.write("pair.jsonl", format!("{pair}\n"));
    for (data, words) in [
        ("ranked.jsonl", "ranked.jsonl:1: this record is a ranked list, and what is scored are pairs"),
        ("judged.jsonl", "judged.jsonl:1: this record is a judged completion, and what is scored are pairs"),
    ] {
        let ran = place.run(&["score", "--base", "base", "--data", data, "--output", "scores.jsonl"]);
        assert!(ran.code == Some(1) && ran.stderr.contains(words), "{data}: {}", ran.stderr);
        assert!(!place.path("scores.jsonl").exists());
    }
    assert_eq!(place.run(&["score", "--base", "base", "--data", "pair.jsonl"]).json().len(), 1);
}

#[test]
fn init_writes_what_the_base_can_read() {
    let place = place();
    let rows = |row: &dyn Fn(usize) -> Value| (0..40).map(|i| format!("{}\n", row(i))).collect::<String>();
    // Every other record is longer than the model's 256 positions.
    let long = |i: usize| " very".repeat(if i % 2 == 1 { 400 } else { 1 });
    place.write(
        "long.jsonl",
        rows(&|i| json!({"prompt": format!("The hill {i}"), "chosen": long(i), "rejected": " is blue."})),
    );
    let turn = |role: &str, text: &str| json!([{"role": role, "content": text}]);
    place.write(
        "chat.jsonl",
        rows(&|i| {
            let (chosen, rejected) = (turn("assistant", "green"), turn("assistant", "blue"));
            json!({"prompt": turn("user", &format!("hill {i}")), "chosen": chosen, "rejected": rejected})
        }),
    );
    for (base, data, words) in [
        ("base", "long.jsonl", &["max_length: 256", "the model has 256 positions"][..]),
        (
            "tiny-reviews",
            "chat.jsonl",
            &["chat_template: chatml", "the base has none, and conversations need one"],
        ),
    ] {
        let output = format!("{base}.yaml");
        place.run(&["init", "--base", base, "--data", data, "--no-timing", "--output", &output]).ok();
        let text = String::from_utf8(place.read(&output)).unwrap();
        assert!(words.iter().all(|words| text.contains(words)), "{text}");
        place.run(&["train", "-c", &output, "--dry-run"]).ok();
    }
    place.write(
        "broken.jsonl",
        "{\"prompt\": 1}\n{\"prompt\": \"a\", \"chosen\": \" b\", \"rejected\": \" c\"}\n",
    );
    let broken = place.run(&["init", "--base", "base", "--data", "broken.jsonl", "--output", "broken.yaml"]);
    let remedy = "dpo-lora train --base base --data broken.jsonl --set data.columns=VALUE";
    assert!(broken.code == Some(1) && broken.stderr.contains(remedy), "{}", broken.stderr);
    assert!(!place.path("broken.yaml").exists());
}
