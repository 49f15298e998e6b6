//! A run that a program follows, and what it says of single pairs.

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::Place;

#[test]
fn events_are_lines_of_json_and_nothing_else_is_on_standard_output() {
    let place = Place::new();
    place.llama_recipe(&[("data.eval", json!(0.3)), ("train.save_steps", json!(3))]);
    let lines = place.run(&["train", "-c", "run.yaml", "--json"]).json();
    let of = |kind: &str| lines.iter().filter(|line| line["event"] == kind).collect::<Vec<_>>();
    assert_eq!(of("start"), [&json!({"event": "start", "step": 0, "total_steps": 6})]);
    assert_eq!((of("progress").len(), of("checkpoint").len()), (6, 2));
    assert!(!of("note").is_empty() && !of("sample").is_empty());
    let logged = String::from_utf8(place.read("run/metrics.jsonl")).unwrap();
    let logged: Vec<Value> = logged.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let metrics = of("metrics");
    assert_eq!(metrics.len(), logged.len());
    for (event, line) in metrics.iter().zip(&logged) {
        assert_eq!(event["step"], line["step"]);
        for (name, value) in event["values"].as_object().unwrap() {
            assert_eq!(*value, line[name], "{name}");
        }
    }
    let last = lines.last().unwrap();
    assert_eq!((&last["event"], &last["adapter"]), (&json!("finished"), &json!("run/adapter")));
    assert!(lines.iter().all(|line| line["stage"].is_null()), "a single run has no stages");
    assert_eq!(last["evaluation"]["loss"], metrics.last().unwrap()["values"]["eval_loss"]);
    let refused = place.run(&["train", "-c", "run.yaml", "--json", "--dry-run"]);
    assert_eq!(refused.code, Some(2));
}

#[test]
fn the_pairs_that_are_most_wrong_are_those_of_score() {
    let place = Place::new();
    // What is learned is wrong on pairs whose answers are exchanged.
    let pairs = std::fs::read_to_string(fixture("pairs.jsonl")).unwrap();
    let exchanged = |line: &str| {
        let mut pair: Value = serde_json::from_str(line).unwrap();
        let chosen = pair["chosen"].take();
        pair["chosen"] = std::mem::replace(&mut pair["rejected"], chosen);
        format!("{pair}\n")
    };
    place.write("eval.jsonl", pairs.lines().map(exchanged).collect::<String>());
    place.llama_recipe(&[("data.eval", json!("eval.jsonl")), ("train.learning_rate", json!(0.01))]);
    place.run(&["train", "-c", "run.yaml"]).ok();
    let found: Value = serde_json::from_slice(&place.read("run/held_out.json")).unwrap();
    let base = fixture("models/llama").display().to_string();
    let scores = place.run(&["score", "--base", &base, "--adapter", "run", "--data", "eval.jsonl"]).json();
    let of = |score: &Value, key: &str| score[key].as_f64().unwrap();
    let margin = |score: &Value| {
        let ratio = |side: &str| of(score, &format!("{side}_logp")) - of(score, &format!("ref_{side}_logp"));
        0.1 * (ratio("chosen") - ratio("rejected"))
    };
    let mut wrong: Vec<&Value> = scores.iter().filter(|score| margin(score) <= 0.0).collect();
    wrong.sort_by(|a, b| margin(a).total_cmp(&margin(b)));
    assert_eq!(
        (&found["step"], &found["pairs"], &found["right"], &found["by_reward"]),
        (&json!(6), &json!(scores.len()), &json!(scores.len() - wrong.len()), &json!(true))
    );
    let listed = found["wrong"].as_array().unwrap();
    assert!(!wrong.is_empty() && listed.len() == wrong.len().min(10), "{found}");
    for (pair, score) in listed.iter().zip(&wrong) {
        let line = score["index"].as_u64().unwrap() + 1;
        assert_eq!(pair["origin"], format!("eval.jsonl:{line}"));
        let reward = pair["reward_margin"].as_f64().unwrap();
        // `score` has the scale in the matrices, which differs by rounding.
        assert!((reward - margin(score)).abs() < 1e-5, "{reward} {}", margin(score));
        let logps = of(score, "chosen_logp") - of(score, "rejected_logp");
        assert!((pair["logp_margin"].as_f64().unwrap() - logps).abs() < 1e-4);
        assert_eq!(pair["chosen_tokens"], score["chosen_tokens"]);
        assert!(!pair["chosen"].as_str().unwrap().is_empty());
    }
    let lengths = found["lengths"].as_array().unwrap();
    let sum = |key: &str| lengths.iter().map(|group| group[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((json!(sum("pairs")), json!(sum("right"))), (found["pairs"].clone(), found["right"].clone()));
    // A run that starts over does not keep it, and one without held-out pairs has none.
    place.llama_recipe(&[]);
    place.run(&["train", "-c", "run.yaml", "--overwrite"]).ok();
    assert!(!place.path("run/held_out.json").exists());
}

#[test]
fn an_offline_run_of_wandb_is_beside_the_working_directory() {
    let place = Place::new();
    place.llama_recipe(&[("train.report_to", json!(["wandb"]))]);
    place.run(&["train", "-c", "run.yaml"]).ok();
    let entries = std::fs::read_dir(place.path("wandb")).unwrap();
    let runs: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(runs.len() == 1 && runs[0].starts_with("offline-run-2"), "{runs:?}");
    let id = runs[0].rsplit('-').next().unwrap();
    let file = place.read(&format!("wandb/{}/run-{id}.wandb", runs[0]));
    assert!(file.starts_with(b":W&B\xe1\xbe\x00"));
    for text in ["rewards/margins", "dpo-lora", "lora.r"] {
        assert!(file.windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
    }
    let mut refused = place.command(&["train", "-c", "run.yaml", "--set", "output_dir=other"]);
    refused.env("WANDB_PROJECT", "a/b");
    let refused = crate::common::program::finish(refused.spawn().unwrap());
    assert!(
        refused.code == Some(2) && refused.stderr.contains("WANDB_PROJECT is \"a/b\""),
        "{}",
        refused.stderr
    );
    assert!(!place.path("other").exists());
}

#[test]
fn what_trackio_takes_in_is_in_its_inbox() {
    let place = Place::new();
    place.llama_recipe(&[("train.report_to", json!(["trackio"]))]);
    let train = |more: &[&str], variable: (&str, &str)| {
        let mut command = place.command(&[&["train", "-c", "run.yaml"], more].concat());
        command.env_remove("TRACKIO_DIR").env_remove("HF_HOME").env(variable.0, variable.1);
        crate::common::program::finish(command.spawn().unwrap())
    };
    train(&[], ("TRACKIO_PROJECT", "mine")).ok();
    // The place is that of the Hub's cache, which XDG_CACHE_HOME moves.
    let inbox = place.path("cache/huggingface/trackio/inbox");
    let writer = std::fs::read_dir(inbox).unwrap().next().unwrap().unwrap().path();
    let mut files: Vec<_> = std::fs::read_dir(writer).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let text: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let logged = place.metrics("run");
    assert_eq!(lines.len(), logged.len());
    for (line, logged) in lines.iter().zip(&logged) {
        assert_eq!((&line["step"], &line["project"]), (&logged["step"], &json!("mine")));
        assert_eq!(line["metrics"]["loss"], logged["loss"]);
    }
    assert_eq!(lines[0]["config"]["lora.r"], 3);
    let refused = train(&["--set", "output_dir=other"], ("TRACKIO_SPACE_ID", "me/space"));
    assert!(refused.code == Some(2) && refused.stderr.contains("trackio sync"), "{}", refused.stderr);
    assert!(!place.path("other").exists());
}
