//! `init` and `lr-find`: what a person runs before the first run.

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::Place;

#[test]
fn what_init_writes_trains() {
    let place = Place::new();
    let args =
        ["init", "--base", "tiny-reviews", "--data", "tiny-reviews/train.jsonl", "--output", "polite.yaml"];
    let made = place.run(&args);
    assert_eq!((made.code, made.stdout.as_str()), (Some(0), "polite.yaml\n"), "{}", made.stderr);
    for words in
        ["steps of 4 pairs", "tokens per second", "of memory at its peak", "dpo-lora train -c polite.yaml"]
    {
        assert!(made.stderr.contains(words), "{words:?} in {}", made.stderr);
    }
    let text = String::from_utf8(place.read("polite.yaml")).unwrap();
    for words in ["output_dir: runs/polite", "base: tiny-reviews", "loss_type: sigmoid", "# ", "eval: 0.1"] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    // It is as long as it says, and what it says in the file is what it said.
    let line = made.stderr.lines().find(|line| line.contains("steps of 4 pairs")).unwrap();
    assert!(text.contains(&format!("# {line}")), "{text}");
    let dry = place.run(&["train", "-c", "polite.yaml", "--dry-run"]);
    assert!(dry.code == Some(0) && dry.stderr.contains(line), "{}", dry.stderr);
    place.run(&["train", "-c", "polite.yaml", "--set", "train.max_steps=3"]).ok();
    assert!(place.path("runs/polite/adapter/adapter_model.safetensors").is_file());

    let again = place.run(&args);
    assert!(again.code == Some(2) && again.stderr.contains("--force"), "{}", again.stderr);
    assert_eq!(String::from_utf8(place.read("polite.yaml")).unwrap(), text);
    place.run(&[&args[..], &["--force", "--no-timing"]].concat()).ok();
    // The directory that was trained in is used by now.
    assert!(String::from_utf8(place.read("polite.yaml")).unwrap().contains("output_dir: runs/polite-2"));
}

#[test]
fn init_finds_the_loss_by_the_records() {
    let place = Place::new();
    let base = fixture("models/llama").display().to_string();
    let rows = |row: &dyn Fn(usize) -> Value| (0..8).map(|i| format!("{}\n", row(i))).collect::<String>();
    let answer = |i: usize| json!({"prompt": format!("The hill {i}"), "completion": " is green.", "label": i.is_multiple_of(2)});
    place.write("judged.jsonl", rows(&answer));
    place.write(
        "texts.jsonl",
        rows(&|i| json!({"prompt": format!("The hill {i}"), "completion": " is green."})),
    );
    place.write(
        "odd name: #1.jsonl",
        rows(
            &|i| json!({"prompt": format!("The hill {i}"), "chosen": " is green.", "rejected": " is blue."}),
        ),
    );
    for (data, loss) in [("judged.jsonl", "kto"), ("texts.jsonl", "sft"), ("odd name: #1.jsonl", "sigmoid")] {
        let made = place.run(&["init", "--base", &base, "--data", data, "--force", "--no-timing"]);
        assert_eq!(made.code, Some(0), "{data}: {}", made.stderr);
        let text = String::from_utf8(place.read("run.yaml")).unwrap();
        assert!(text.contains(&format!("loss_type: {loss}")), "{data}: {text}");
        assert!(text.contains("eval: null"), "8 records are too few to hold some out: {text}");
        let ran = place.run(&["train", "-c", "run.yaml", "--overwrite", "--set", "train.max_steps=1"]);
        assert_eq!(ran.code, Some(0), "{data}: {}", ran.stderr);
    }
    let none = place.run(&["init", "--base", &base, "--data", "none.jsonl", "--output", "none.yaml"]);
    assert_eq!(none.code, Some(2), "{}", none.stderr);
    assert!(!place.path("none.yaml").exists());
}

#[test]
fn learning_rates_are_compared_on_held_out_pairs() {
    let place = Place::new();
    let base = ["--base", "tiny-reviews", "--data", "tiny-reviews/train.jsonl", "--set", "data.limit=64"];
    let args = [&["lr-find"], &base[..], &["--rates", "1e-6,5e-3", "--steps", "6"]].concat();
    let said = place.run(&args);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let rows: Vec<&str> = said.stdout.lines().collect();
    assert!(rows[1].trim().starts_with("1e-6 ") && rows[2].trim().starts_with("5e-3 "), "{}", said.stdout);
    assert!(said.stdout.contains("--set train.learning_rate=5e-3"), "{}", said.stdout);
    let found = place.run(&[&args[..], &["--json"]].concat()).json().remove(0);
    assert_eq!((&found["steps"], &found["suggested"], &found["pairs"]), (&json!(6), &json!(5e-3), &json!(6)));
    // Hardly anything is learned at the low rate, and nothing is left behind.
    let loss = |i: usize| found["tried"][i]["loss"].as_f64().unwrap();
    assert!((loss(0) - std::f64::consts::LN_2).abs() < 1e-3 && loss(1) < loss(0), "{found}");
    assert!(!place.path("runs").exists());
    let wrong = place.run(&[&args[..], &["--lr", "1e-4"]].concat());
    assert!(wrong.code == Some(2) && wrong.stderr.contains("--rates"), "{}", wrong.stderr);
    assert_eq!(place.run(&["lr-find", "--rates", "0"]).code, Some(2));
}
