//! Completions that show what a run teaches.

use serde_json::{Value, json};

use crate::common::program::Place;

fn samples(place: &Place, run: &str) -> Vec<Value> {
    let text = String::from_utf8(place.read(&format!("{run}/samples.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A run of the embedded base that learns something in seconds.
fn learning(place: &Place, more: &[(&str, Value)]) {
    let mut settings = vec![
        ("data.eval", json!("tiny-reviews/eval.jsonl")),
        ("data.limit", json!(64)),
        ("objective", json!({"beta": 0.1})),
        ("train.learning_rate", json!(5e-3)),
        ("train.max_steps", json!(8)),
    ];
    settings.extend(more.iter().cloned());
    place.recipe("tiny-reviews".as_ref(), "tiny-reviews/train.jsonl".as_ref(), &settings);
}

#[test]
fn held_out_prompts_are_completed_before_during_and_after() {
    let place = Place::new();
    learning(&place, &[("train.sample_steps", json!(3)), ("train.sample_prompts", json!(2))]);
    let ran = place.run(&["train", "-c", "run.yaml"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let found = samples(&place, "run");
    let places: Vec<(u64, u64)> =
        found.iter().map(|line| (line["step"].as_u64().unwrap(), line["number"].as_u64().unwrap())).collect();
    assert_eq!(places, [(0, 0), (0, 1), (3, 0), (3, 1), (6, 0), (6, 1), (8, 0), (8, 1)]);
    let text = |i: usize| found[i]["completion"].as_str().unwrap().trim().to_string();
    assert_ne!(text(0), text(6), "the adapter changes nothing");
    // What the base and the adapter say is what `generate` says.
    let prompt = found[0]["prompt"].as_str().unwrap();
    let args = ["generate", "--base", "tiny-reviews", "--prompt", prompt, "--max-new-tokens", "64", "--json"];
    for (i, adapter) in [(0, None), (6, Some("run"))] {
        let with: Vec<&str> = adapter.map_or(vec![], |run| vec!["--adapter", run]);
        let line = place.run(&[&args[..], &with].concat()).json().remove(0);
        assert_eq!(line["completion"].as_str().unwrap().trim(), text(i));
    }
    // The summary shows the beginning of both.
    let first = |text: String| text.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    assert!(ran.stderr.contains(&format!("before: {}", first(text(0)))), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("after:  {}", first(text(6)))), "{}", ran.stderr);
    let shown = place.run(&["inspect", "run"]).ok();
    assert!(shown.contains(&format!("before: {}", first(text(0)))), "{shown}");
    let read = place.run(&["inspect", "run", "--json"]).json().remove(0);
    assert_eq!(read["samples"][1]["completions"][3], json!([8, found[7]["completion"]]));
    let page = String::from_utf8(place.read("run/report.html")).unwrap();
    let shown = json!([[0, found[1]["completion"]], [3, found[3]["completion"]]]).to_string();
    assert!(page.contains(shown.trim_end_matches(']')), "{shown} is not in the report");
}

#[test]
fn a_resumed_run_has_the_samples_of_one_that_never_stopped() {
    let place = Place::new();
    learning(
        &place,
        &[("train.sample_steps", json!(2)), ("train.sample_prompts", json!(["The film is", "It"]))],
    );
    place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]).ok();
    let short =
        ["train", "-c", "run.yaml", "--set", "train.save_steps=4", "--set", "train.save_total_limit=3"];
    place.run(&short).ok();
    // As a run that was killed after step 4.
    std::fs::remove_dir_all(place.path("run/checkpoints/step-8")).unwrap();
    assert!(place.path("run/checkpoints/step-4").is_dir());
    let resumed = place.run(&[&short[..], &["--resume"]].concat());
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert_eq!(samples(&place, "run"), samples(&place, "whole"));
    assert_eq!(samples(&place, "run").len(), 2 * 5);
}

#[test]
fn no_samples_on_request_and_wrong_values_are_named() {
    let place = Place::new();
    learning(&place, &[("train.sample_prompts", json!(0)), ("train.max_steps", json!(1))]);
    let ran = place.run(&["train", "-c", "run.yaml"]);
    assert!(samples(&place, "run").is_empty() && !ran.stderr.contains("before: "), "{}", ran.stderr);
    for (value, words) in [
        ("[\" \"]", "holds an empty text"),
        ("65", "there may be 64"),
        ("-2", "train.sample_prompts"),
        ("{a: 1}", "train.sample_prompts"),
    ] {
        let ran = place.run(&["train", "-c", "run.yaml", "--set", &format!("train.sample_prompts={value}")]);
        assert!(ran.code == Some(2) && ran.stderr.contains(words), "{value}: {}", ran.stderr);
    }
}
