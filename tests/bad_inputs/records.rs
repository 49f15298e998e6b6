//! Invalid data files.

use serde_json::json;

use super::{refused, train_refused};
use crate::common::fixture;
use crate::common::program::Place;

const GOOD: &str = r#"{"prompt": "The river", "chosen": " runs.", "rejected": " sleeps."}"#;

/// Trains on these bytes as `pairs.jsonl`.
fn with_records(bytes: impl AsRef<[u8]>, parts: &[&str]) {
    let place = Place::new();
    place.write("pairs.jsonl", bytes);
    place.llama_recipe(&[("data.train", json!("pairs.jsonl"))]);
    train_refused(&place, 1, parts);
}

#[test]
fn no_such_file() {
    let place = Place::new();
    place.write("pairs.jsonl", GOOD);
    place.llama_recipe(&[("data.train", json!("pair.jsonl"))]);
    train_refused(&place, 2, &["`pair.jsonl` does not exist", "did you mean `pairs.jsonl`?"]);
    place.llama_recipe(&[("data.train", json!("nowhere/*.jsonl"))]);
    train_refused(&place, 2, &["nowhere/*.jsonl", "matches no file"]);
    place.llama_recipe(&[("data.eval", json!("held-out.jsonl"))]);
    train_refused(&place, 2, &["held-out.jsonl"]);
}

#[test]
fn nothing_in_it() {
    with_records("", &["no records", "empty"]);
    with_records("\n\n", &["no records"]);
}

#[test]
fn nothing_to_show() {
    let place = Place::new();
    place.write("empty.jsonl", "");
    refused(&place, &["data", "show", "empty.jsonl"], 1, &["there are no records in empty.jsonl"]);
    place.write("pairs.jsonl", GOOD);
    refused(
        &place,
        &["data", "show", "pairs.jsonl", "--start", "3"],
        1,
        &["pairs.jsonl has no record 3, only 1: choose a smaller --start"],
    );
}

#[test]
fn broken_lines_are_named() {
    with_records(format!("{GOOD}\n{{\"prompt\": \"x\", \n{GOOD}\n"), &["pairs.jsonl:2:", "JSON"]);
    with_records(format!("{GOOD}\n{GOOD}\n[1, 2]\n"), &["pairs.jsonl:3:", "JSON object"]);
    with_records(format!("{GOOD}\n\u{feff}{GOOD}\n"), &["pairs.jsonl:2:", "a byte-order mark", "remove it"]);
    with_records(
        format!("{GOOD}\n{}\n", GOOD.replacen('{', "{\"chosen\": \" stops.\", ", 1)),
        &["pairs.jsonl:2:", "the key \"chosen\" stands twice"],
    );
    with_records(
        b"{\"prompt\": \"\xff\xfe\", \"chosen\": \"a\", \"rejected\": \"b\"}\n",
        &["pairs.jsonl:1:", "UTF-8"],
    );
}

#[test]
fn broken_fields_are_named() {
    let line = |fields: &str| format!("{GOOD}\n\n{{{fields}}}\n");
    let at = "pairs.jsonl:3:";
    with_records(
        line(r#""prompt": "x", "chosen": "", "rejected": "b""#),
        &[at, "chosen is empty", "non-empty"],
    );
    with_records(
        line(r#""prompt": "x", "chosen": "a", "rejected": "a""#),
        &[at, "chosen and rejected are equal (a)"],
    );
    with_records(
        line(r#""prompt": "x", "chosen": 3, "rejected": "a""#),
        &[at, "chosen must be a string", "3"],
    );
    with_records(
        line(r#""prompt": 1, "chosen": "b", "rejected": "a""#),
        &[at, "prompt must be a string", "1"],
    );
    with_records(line(r#""prompt": "x", "chosen": "b""#), &[at, "missing `rejected`"]);
    with_records(
        line(r#""prompt": "x", "chosen": "b", "rejectd": "c""#),
        &[at, "missing `rejected`", "`rejectd`: rename"],
    );
    let label = r#""prompt": "x", "chosen": "b", "rejected": "c", "label": 1.5"#;
    with_records(line(label), &[at, "label", "from 0", "1.5"]);
    with_records(line(&label.replace("1.5", "NaN")), &[at, "label", "found NaN;"]);
    let mixed = r#""prompt": "x", "chosen": [{"role": "assistant", "content": "b"}], "rejected": "c""#;
    with_records(line(mixed), &[at, "both"]);
    let role = r#""prompt": [{"role": "user", "content": "x"}], "chosen": [{"role": "assistant"}], "rejected": [{"role": "assistant", "content": "b"}]"#;
    with_records(line(role), &[at, "chosen", "content"]);
}

#[test]
fn only_prompts_that_leave_no_room() {
    let place = Place::new();
    let long = format!(r#"{{"prompt": "{}", "chosen": "a", "rejected": "b"}}"#, "the river ".repeat(40));
    place.write("pairs.jsonl", long);
    place.llama_recipe(&[("data.train", json!("pairs.jsonl")), ("data.max_length", json!(12))]);
    train_refused(&place, 1, &["nothing is left", "pairs.jsonl:1", "data.max_length"]);
}

#[test]
fn sequences_beyond_the_models_positions() {
    let place = Place::new();
    let long = format!(r#"{{"prompt": "{}", "chosen": "a", "rejected": "b"}}"#, "the river ".repeat(200));
    place.write("pairs.jsonl", format!("{GOOD}\n{long}\n"));
    place.llama_recipe(&[("data.train", json!("pairs.jsonl"))]);
    train_refused(&place, 1, &["256 positions", "pairs.jsonl:2", "data.max_length"]);
    let base = fixture("models/llama");
    let base = base.to_str().unwrap();
    refused(&place, &["score", "--base", base, "--data", "pairs.jsonl"], 1, &["pairs.jsonl:2", "256"]);
    refused(&place, &["generate", "--base", base, "--no-chat", "--prompt", &"x ".repeat(400)], 1, &["256"]);
}

#[test]
fn other_formats() {
    let place = Place::new();
    place.write("pairs.parquet", "PAR1");
    place.llama_recipe(&[("data.train", json!("pairs.parquet"))]);
    train_refused(&place, 1, &["parquet"]);
    place.write("prompts.jsonl", "{\"prompt\": \"a\"}\n{\"promt\": \"b\"}\n");
    let base = fixture("models/llama");
    let args = ["generate", "--base", base.to_str().unwrap(), "--prompts", "prompts.jsonl"];
    refused(&place, &args, 1, &["prompts.jsonl:2", "`prompt`"]);
}
