//! Slips of a person, and what the program makes of them.

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::Place;

/// Exit code 2, nothing on standard output, and these words.
fn refused(place: &Place, args: &[&str], words: &[&str]) {
    let ran = place.run(args);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{args:?}: {}", ran.stderr);
    for words in words {
        assert!(ran.stderr.contains(words), "{args:?}: {words:?} in {}", ran.stderr);
    }
}

#[test]
fn slips_are_answered_with_what_was_meant() {
    let place = Place::new();
    place.llama_recipe(&[]);
    place.write("tiny.gguf", "not read");
    refused(&place, &["train", "run.yaml"], &["dpo-lora train -c run.yaml"]);
    refused(&place, &["train", "--set", "train.lr=1"], &["did you mean train.learning_rate?"]);
    refused(&place, &["train", "--set", "lora.rank=4"], &["did you mean lora.r?"]);
    place.write("short.yaml", "model: {base: tiny-reviews}\ndata: {train: x.jsonl}\ntrain:\n  epochs: 2\n");
    refused(
        &place,
        &["train", "-c", "short.yaml"],
        &["short.yaml:4", "did you mean train.num_train_epochs?"],
    );
    let prompt = ["--prompt", "x"];
    for (base, meant) in
        [("tiny-review", "did you mean tiny-reviews?"), ("tny.gguf", "did you mean tiny.gguf?")]
    {
        refused(&place, &[&["generate", "--base", base], &prompt[..]].concat(), &[meant]);
    }
    let adapter = ["generate", "--base", "tiny-reviews", "--adapter", "rnu", "--prompt", "x"];
    std::fs::create_dir(place.path("run")).unwrap();
    refused(&place, &adapter, &["there is no adapter rnu", "did you mean run?"]);
    refused(
        &place,
        &["eval", "--base", "tiny-reviews", "--data", "tiny-reviews/evl.jsonl"],
        &["tiny-reviews/eval.jsonl?"],
    );
}

#[test]
fn a_missing_file_is_wrong_usage() {
    let place = Place::new();
    refused(&place, &["train", "-c", "nowhere.yaml"], &["nowhere.yaml"]);
    refused(&place, &["eval", "--base", "tiny-reviews", "--data", "nowhere.jsonl"], &["nowhere.jsonl"]);
    refused(&place, &["generate", "--base", "tiny-reviews", "--prompts", "nowhere.txt"], &["nowhere.txt"]);
    refused(&place, &["inspect", "nowhere"], &["nowhere does not exist"]);
    refused(&place, &["train", "--set", "data.train=nowhere.jsonl"], &["nowhere.jsonl"]);
}

#[test]
fn a_path_beside_the_configuration_is_pointed_out() {
    let place = Place::new();
    place.llama_recipe(&[("data.train", json!("pairs.jsonl"))]);
    std::fs::create_dir(place.path("recipes")).unwrap();
    std::fs::rename(place.path("run.yaml"), place.path("recipes/run.yaml")).unwrap();
    std::fs::copy(fixture("pairs.jsonl"), place.path("recipes/pairs.jsonl")).unwrap();
    let train = ["train", "-c", "recipes/run.yaml"];
    refused(&place, &train, &["data.train is pairs.jsonl", "write data.train: recipes/pairs.jsonl"]);
    std::fs::copy(fixture("pairs.jsonl"), place.path("pairs.jsonl")).unwrap();
    place.run(&train).ok();
}

#[test]
fn a_run_is_an_adapter_and_says_so_where_it_has_none_yet() {
    let place = Place::new();
    place.llama_recipe(&[("train.max_steps", json!(2))]);
    place.run(&["train", "-c", "run.yaml"]).ok();
    let (base, data) = (fixture("models/llama"), fixture("pairs.jsonl"));
    let score = |adapter: &str| {
        let with = ["--base", base.to_str().unwrap(), "--data", data.to_str().unwrap(), "--adapter", adapter];
        place.run(&[&["score"], &with[..]].concat())
    };
    let whole = score("run/adapter").ok();
    assert_eq!(score("run").ok(), whole);
    assert_eq!(score("run/checkpoints/step-2").ok(), whole);
    std::fs::remove_dir_all(place.path("run/adapter")).unwrap();
    let ran = score("run");
    assert!(
        ran.code == Some(2) && ran.stderr.contains("run is a run that has no adapter yet"),
        "{}",
        ran.stderr
    );
}

#[test]
fn inspect_shows_a_run_its_checkpoint_and_a_folder_of_runs() {
    let place = Place::new();
    place.llama_recipe(&[("data.eval", json!(0.3)), ("train.max_steps", json!(4))]);
    for (run, rate) in [("runs/a", "0.001"), ("runs/b", "0.002")] {
        let set = [format!("output_dir={run}"), format!("train.learning_rate={rate}")];
        place.run(&["train", "-c", "run.yaml", "--set", &set[0], "--set", &set[1]]).ok();
    }
    let run = place.run(&["inspect", "runs/a"]).ok();
    for words in
        ["runs/a/adapter", "step-4", "0.6931 → ", "held-out accuracy", "train.learning_rate", "0.001"]
    {
        assert!(run.contains(words), "{words} in {run}");
    }
    let object = place.run(&["inspect", "runs/a", "--json"]).json().remove(0);
    assert_eq!((&object["kind"], &object["logged_step"]), (&json!("run"), &json!(4)));
    assert_eq!(
        (&object["loss"]["first"], &object["settings"]["lora.r"]),
        (&json!(std::f64::consts::LN_2), &json!(3))
    );
    let both = place.run(&["inspect", "runs"]).ok();
    let rows: Vec<&str> = both.lines().collect();
    assert!(rows.len() == 3 && rows[1].starts_with("a ") && rows[2].contains("0.002"), "{both}");
    let checkpoint = place.run(&["inspect", "runs/a/checkpoints/step-4", "--json"]).json().remove(0);
    assert_eq!((&checkpoint["kind"], &checkpoint["step"]), (&json!("checkpoint"), &json!(4)));
    assert_eq!((&checkpoint["logged_step"], &checkpoint["settings"]["lora.r"]), (&json!(4), &json!(3)));
    // What came after a checkpoint is not the checkpoint's.
    let set = "output_dir=runs/c train.max_steps=6 train.save_steps=3 train.save_total_limit=null train.sample_steps=1";
    let more = set.split(' ').flat_map(|set| ["--set", set]);
    place.run(&["train", "-c", "run.yaml"].into_iter().chain(more).collect::<Vec<_>>()).ok();
    let third = place.run(&["inspect", "runs/c/checkpoints/step-3", "--json"]).json().remove(0);
    let last = |sample: &Value| sample["completions"].as_array().unwrap().last().unwrap()[0].clone();
    assert_eq!((&third["logged_step"], last(&third["samples"][0])), (&json!(3), json!(3)));
    let text = place.run(&["inspect", "runs/c/checkpoints/step-3"]).ok();
    for words in ["loss  ", "0.6931 → ", "train.learning_rate", "\n> "] {
        assert!(text.contains(words), "{words} in {text}");
    }
}

#[test]
fn held_out_records_with_known_prompts_are_noted() {
    let place = Place::new();
    let text = std::fs::read_to_string(fixture("pairs.jsonl")).unwrap();
    let swapped = text.lines().map(|line| {
        let mut pair: Value = serde_json::from_str(line).unwrap();
        let chosen = pair["chosen"].take();
        pair["chosen"] = std::mem::replace(&mut pair["rejected"], chosen);
        format!("{pair}\n")
    });
    place.write("swapped.jsonl", swapped.collect::<String>());
    for (eval, is_known) in [(json!("swapped.jsonl"), true), (json!(0.3), false)] {
        place.llama_recipe(&[("data.eval", eval.clone())]);
        let ran = place.run(&["train", "-c", "run.yaml", "--dry-run"]);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.code, Some(0), "{said}");
        assert_eq!(
            said.contains("evaluation records have the prompt of a training record"),
            is_known,
            "{said}"
        );
    }
}

#[test]
fn verbose_names_the_files_that_are_read() {
    let place = Place::new();
    let args = ["eval", "--base", "tiny-reviews", "--data", "tiny-reviews/eval.jsonl"];
    let normal = place.run(&args);
    let verbose = place.run(&[&args[..], &["-v"]].concat());
    assert_eq!(normal.stdout, verbose.stdout);
    assert_eq!(normal.stderr, "");
    for words in ["base: ", "38 tensors", "eval.jsonl", "instruction set"] {
        assert!(verbose.stderr.contains(words), "{words} in {}", verbose.stderr);
    }
}

#[test]
fn the_cache_is_listed_and_cleared() {
    let place = Place::new();
    assert!(place.run(&["cache"]).ok().contains("the cache is empty"));
    place.llama_recipe(&[("train.max_steps", json!(1))]);
    place.run(&["train", "-c", "run.yaml"]).ok();
    let listed = place.run(&["cache", "--json"]).json().remove(0);
    let names: Vec<&str> =
        listed["parts"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"reference"), "{listed}");
    refused(&place, &["cache", "clear", "refrence"], &["holds no refrence", "reference"]);
    place.run(&["cache", "clear", "reference"]).ok();
    assert!(!place.path("cache/dpo-lora/reference").exists());
    place.run(&["cache", "clear"]).ok();
    assert!(place.run(&["cache"]).ok().contains("the cache is empty"));
}
