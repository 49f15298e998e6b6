//! The experiments of `examples/`: their files parse, their commands run to the end with tiny sizes, and what is done is not
//! done again.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::Command;

use dpo_lora::config::Recipe;
use serde_json::Value;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// Runs an experiment with tiny sizes, and returns what it said.
fn run(name: &str, place: &Path) -> String {
    let output = Command::new("sh")
        .arg(example(name).join("run.sh"))
        .args(["--quick", "--threads", "1", "--output", "out"])
        .current_dir(place)
        .env("DPO_LORA", env!("CARGO_BIN_EXE_dpo-lora"))
        .env("XDG_CACHE_HOME", place.join("cache"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{name}: {said}");
    said
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .unwrap()
}

/// Runs an experiment, again, and again without the marks of what is done: with the same results.
fn experiment(name: &str, results: &[&str]) -> Vec<Value> {
    let place = tempfile::tempdir().unwrap();
    let said = run(name, place.path());
    assert!(said.contains("[1 of ") && said.contains(" min left") && said.contains("done in "), "{said}");
    let out = place.path().join("out");
    let read = || -> Vec<Value> { results.iter().map(|it| json(&out.join(format!("{it}.json")))).collect() };
    let found = read();
    for result in results {
        for end in ["csv", "svg"] {
            assert!(out.join(format!("{result}.{end}")).exists(), "{result}.{end}");
        }
    }
    let again = run(name, place.path());
    let steps = |said: &str, words: &str| {
        said.lines().filter(|line| line.starts_with('[') && line.contains(words)).count()
    };
    assert_eq!(steps(&again, "done before"), steps(&said, " of "), "{again}");
    // Without the marks every step goes on where it was: at its end.
    std::fs::remove_dir_all(out.join("done")).unwrap();
    run(name, place.path());
    assert_eq!(read(), found);
    found
}

#[test]
fn the_sentiment_experiment_runs() {
    let found = experiment("sentiment", &["frontier/frontier"]);
    let points = found[0]["points"].as_array().unwrap();
    let series = |name: &str| points.iter().filter(|point| point["series"] == name).count();
    for name in ["dpo", "ipo", "ppo", "ppo-gt", "preferred-ft", "unlikelihood"] {
        // Two steps, and a checkpoint after each.
        assert_eq!(series(name), 2, "{name}");
    }
    assert_eq!((series("best of N by tiny-reviews"), series("best of N by reward"), series("")), (1, 1, 1));
    // Every two of the eight series that diverge at all are compared.
    assert!(found[0]["compared"].as_array().unwrap().len() <= 28);
}

#[test]
fn the_summary_experiment_runs() {
    let found = experiment("summary", &["overlay"]);
    let names: Vec<&str> =
        found[0].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["best-of-2", "dpo", "ppo", "preferred-ft", "sft"]);
}

#[test]
fn the_dialogue_experiment_runs() {
    let found = experiment("dialogue", &["overlay"]);
    assert_eq!(found[0].as_array().unwrap().len(), 4);
    assert!(found[0][1]["points"][1]["prompts"] == 3, "{}", found[0]);
}

#[test]
fn the_learning_curve_runs() {
    let found = experiment("learning-curve", &["error/learning-curve", "loss/learning-curve"]);
    assert_eq!(found[0]["points"].as_array().unwrap().len(), 2);
}

#[test]
fn every_configuration_of_an_experiment_parses() {
    let mut seen = 0;
    for name in ["sentiment", "summary", "dialogue", "learning-curve"] {
        for entry in std::fs::read_dir(example(name)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                seen += 1;
                Recipe::from_file(&path, &["output_dir=out".into()])
                    .unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }
    assert_eq!(seen, 14);
}

/// The rules of the corpora, on answers whose rewards are known.
#[test]
fn the_rules_of_the_corpora_say_what_they_should() {
    let rewards = |name: &str, samples: &[(&str, &str)]| -> Vec<f64> {
        let lines: String = samples
            .iter()
            .map(|(prompt, completion)| {
                serde_json::json!({"prompt": prompt, "completion": completion}).to_string() + "\n"
            })
            .collect();
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("in"), lines).unwrap();
        let output = Command::new("awk")
            .args(["-f", "words.awk", "-f", "reward.awk"])
            .stdin(std::fs::File::open(place.path().join("in")).unwrap())
            .current_dir(example(name))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect()
    };
    let review = "The music is lovely, the cast is superb, and the plot is thin.\nTL;DR:";
    let long = " lovely music, I say, and I say it again and again and again.";
    assert_eq!(
        // The review is favourable on the whole. Thirteen words: a quarter less.
        rewards(
            "summary",
            &[
                (review, " Lovely music, great cast, witty plot."),
                (review, " thin plot."),
                (review, " lovely, lovely."),
                (review, long)
            ]
        ),
        [2.0, -1.0, 1.0, 0.75]
    );
    let asked = "Human: How is the plot?\n\nAssistant: It is thin.\n\nHuman: And the music?\n\nAssistant:";
    assert_eq!(
        rewards(
            "dialogue",
            &[
                (asked, " The music is lovely and graceful. Shall I tell you more?"),
                (asked, " The plot is thin."),
                (asked, " What a stupid question. The music is shrill."),
                (asked, " I do not know."),
            ]
        ),
        [5.0, 0.0, 1.0, -1.0]
    );
}
