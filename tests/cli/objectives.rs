//! `train` and `eval` with losses other than DPO, on the records that they need.

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::Place;

const TRAIN: [&str; 3] = ["train", "-c", "run.yaml"];

/// A run with these objective settings on this data, a quarter of which is held out.
fn recipe(place: &Place, data: &str, objective: &Value) {
    let path = fixture("trl").join(data);
    let data = if path.is_file() { path } else { place.path(data) };
    let more =
        [("objective", objective.clone()), ("data.eval", json!(0.25)), ("train.warmup_steps", json!(0))];
    place.recipe(&fixture("models").join("llama"), &data, &more);
}

#[test]
fn every_kind_of_record_is_trained_on_and_evaluated() {
    let place = Place::new();
    let ranked: Vec<String> = (0..12)
        .map(|i| {
            json!({"prompt": format!("Question {i}:"), "completions": [" yes", " maybe so", " no"]})
                .to_string()
        })
        .collect();
    place.write("ranked.jsonl", ranked.join("\n"));
    let runs = [
        ("judged.jsonl", json!({"loss_type": "kto", "beta": 0.3}), Some("kl")),
        ("judged.jsonl", json!({"loss_type": "apo_zero_unpaired"}), None),
        ("texts.jsonl", json!({"loss_type": "sft"}), Some("nll_loss")),
        ("train.jsonl", json!({"loss_type": "sft"}), Some("nll_loss")),
        ("train.jsonl", json!({"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.2]}), Some("nll_loss")),
        ("train.jsonl", json!({"loss_type": "orpo"}), Some("log_odds_ratio")),
        ("train.jsonl", json!({"loss_type": "simpo", "beta": 2.0, "cpo_alpha": 0.0}), None),
        ("ranked.jsonl", json!({"loss_type": "plackett_luce"}), Some("rewards/accuracies")),
        ("triples.jsonl", json!({"loss_type": "tpo", "beta": 0.3}), Some("nll_loss")),
        ("triples.jsonl", json!({"loss_type": "tpo", "tpo_alpha": 0}), Some("rewards/accuracies")),
        ("train.jsonl", json!({"loss_type": "tpo_l", "tpo_alpha": 0}), Some("rewards/accuracies")),
    ];
    for (data, objective, figure) in runs {
        recipe(&place, data, &objective);
        let overwritten: Vec<&str> = TRAIN.into_iter().chain(["--overwrite"]).collect();
        place.run(&overwritten).ok();
        let metrics: Vec<Value> =
            place.metrics("run").into_iter().filter(|line| line["loss"].is_f64()).collect();
        assert_eq!(metrics.len(), 6, "{objective}");
        assert!(figure.is_none_or(|figure| metrics.iter().all(|line| line[figure].is_f64())), "{objective}");
        let set = fixture("trl").join(data);
        let set = if set.is_file() { set } else { place.path(data) };
        let base = fixture("models").join("llama");
        let (base, set) = (base.to_str().unwrap(), set.to_str().unwrap());
        let found =
            place.run(&["eval", "--base", base, "--adapter", "run/adapter", "--data", set, "--json"]).json();
        assert!(found[0]["loss"].as_f64().unwrap().is_finite(), "{objective}");
    }
}

/// A gold answer that the loss does not imitate is left out with a note, and the run is that of the pairs; one that it
/// needs is asked for.
#[test]
fn gold_answers_are_imitated_left_out_or_missing() {
    let place = Place::new();
    let objective = json!({"loss_type": "sigmoid"});
    recipe(&place, "train.jsonl", &objective);
    place.run(&TRAIN).ok();
    let of_pairs = place.adapter("run");
    recipe(&place, "triples.jsonl", &objective);
    let ran = place.run(&[&TRAIN[..], &["--overwrite"]].concat());
    let note = "in 50 of 50 records there is a gold answer and nothing imitates it: ";
    assert!(ran.code == Some(0) && ran.stderr.contains(note), "{}", ran.stderr);
    assert!(ran.stderr.contains("objective.loss_type: tpo"), "{}", ran.stderr);
    assert_eq!(place.adapter("run")[1], of_pairs[1]);
    let imitated = json!({"loss_type": "tpo", "beta": 0.3});
    recipe(&place, "triples.jsonl", &imitated);
    let ran = place.run(&[&TRAIN[..], &["--overwrite"]].concat());
    assert!(ran.code == Some(0) && !ran.stderr.contains("gold answer"), "{}", ran.stderr);

    let row = |reference: Value| {
        json!({"prompt": "a", "chosen": " b", "rejected": " c", "reference": reference}).to_string()
    };
    for (name, row, message) in [
        ("none.jsonl", row(Value::Null), "none.jsonl:1: missing `reference`"),
        ("number.jsonl", row(json!(3)), "reference must be an answer of the same form as chosen"),
        ("turns.jsonl", row(json!([{"role": "assistant", "content": "d"}])), "of the same form as chosen"),
    ] {
        place.write(name, [row.as_str(); 8].join("\n"));
        recipe(&place, name, &imitated);
        let ran = place.run(&[&TRAIN[..], &["--overwrite", "--set", "data.eval=null"]].concat());
        assert!(ran.code != Some(0) && ran.stderr.contains(message), "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains("tpo_alpha to 0"), "{name}: {}", ran.stderr);
        // Other losses read the pair.
        recipe(&place, name, &objective);
        place.run(&[&TRAIN[..], &["--overwrite", "--set", "data.eval=null"]].concat()).ok();
    }
    recipe(&place, "judged.jsonl", &imitated);
    let ran = place.run(&[&TRAIN[..], &["--overwrite", "--set", "data.eval=null"]].concat());
    assert!(ran.code != Some(0) && ran.stderr.contains("takes triples"), "{}", ran.stderr);
    recipe(&place, "triples.jsonl", &json!({"loss_type": "tpo_hinge", "label_smoothing": 0.1}));
    let ran = place.run(&[&TRAIN[..], &["--overwrite"]].concat());
    assert!(ran.code == Some(2) && ran.stderr.contains("no such parameter"), "{}", ran.stderr);
}

#[test]
fn records_labels_and_batches_that_do_not_fit_are_refused() {
    let place = Place::new();
    let soft = json!({"prompt": "a", "chosen": " b", "rejected": " c", "label": 0.5}).to_string();
    place.write("soft.jsonl", [soft.as_str(); 8].join("\n"));
    let refusals = [
        (
            "train.jsonl",
            json!({"loss_type": "kto"}),
            "train.jsonl:1: objective.loss_type takes judged completions",
            1,
        ),
        ("judged.jsonl", json!({}), "objective.loss_type takes pairs", 1),
        ("soft.jsonl", json!({"loss_type": "aot"}), "soft.jsonl:1: label is 0.5", 1),
    ];
    for (data, objective, message, code) in refusals {
        recipe(&place, data, &objective);
        let ran = place.run(&[&TRAIN[..], &["--overwrite", "--set", "data.eval=null"]].concat());
        assert_eq!(ran.code, Some(code), "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{objective}: {}", ran.stderr);
    }
    recipe(&place, "judged.jsonl", &json!({"loss_type": "kto"}));
    let cut = place.run(&[&TRAIN[..], &["--set", "train.max_tokens_per_batch=64"]].concat());
    assert_eq!(cut.code, Some(2));
    assert!(cut.stderr.contains("train.max_tokens_per_batch is 64"), "{}", cut.stderr);
}
