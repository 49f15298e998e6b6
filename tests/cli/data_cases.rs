//! Small inputs that were silently wrong or badly named once (`fixtures/data_said`): what a dry run says of each. Those with
//! wrong tokens are in `tests/data_cases.rs`.

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::Place;

/// A template that shows roles and contents and no reasoning.
const PLAIN: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}\
                     {% if add_generation_prompt %}<|assistant|>{% endif %}";

/// The file, the exit code, and what is said of it.
const CASES: [(&str, i32, &[&str]); 12] = [
    (
        "equal-after-truncation.jsonl",
        1,
        &[
            "all 1 records were dropped",
            "equal-after-truncation.jsonl:1 because chosen and rejected are equal in what truncation leaves",
        ],
    ),
    (
        "equal-once-rendered.jsonl",
        1,
        &["equal-once-rendered.jsonl:1: chosen and rejected are equal once they are rendered"],
    ),
    (
        "gzip-named-jsonl.jsonl",
        0,
        &["the file is compressed with gzip and is read as such", "1 training pairs"],
    ),
    // The question is the prompt; it was lost.
    (
        "implicit-prompt-ignores-question.jsonl",
        0,
        &["format: ", "(2 records)", "2 training pairs", "<|user|>"],
    ),
    ("kto-rows.jsonl", 0, &["kto-rows.jsonl:1 (judged answer, desirable)"]),
    (
        "label-zero-inverts.jsonl",
        0,
        &["1 of 1 pairs have a label other than 1; 1 are below 0.5, where rejected is preferred"],
    ),
    (
        "messages-as-json-text.jsonl",
        1,
        &["messages-as-json-text.jsonl:1: chosen is JSON text of a list of messages; give the list"],
    ),
    ("nan-in-unused-column.jsonl", 0, &["1 training pairs"]),
    (
        "one-error-at-a-time.jsonl",
        1,
        &[
            "one-error-at-a-time.jsonl:2: rejected is empty",
            "one-error-at-a-time.jsonl:3: chosen and rejected are equal",
            "2 of 3 records are invalid; mend them, or leave them out with data.on_error: skip",
        ],
    ),
    ("pretty-wrapped-json.json", 0, &["the records are those of its field `data`", "1 training pairs"]),
    (
        "prompt-repeated-in-strings.jsonl",
        1,
        &["prompt-repeated-in-strings.jsonl:1: chosen and rejected repeat prompt"],
    ),
    ("sharegpt-from-value.jsonl", 0, &["format: ", "(1 records)", "1 training pairs"]),
];

#[test]
fn every_case_is_read_or_named() {
    let files = std::fs::read_dir(fixture("data_said")).unwrap().count();
    assert_eq!(files, CASES.len());
    for (file, code, parts) in CASES {
        let place = Place::new();
        let mut more: Vec<(&str, Value)> = vec![("data.chat_template", json!(PLAIN))];
        match file {
            "equal-after-truncation.jsonl" => more.push(("data.max_length", json!(20))),
            "kto-rows.jsonl" => more.push(("objective", json!({"loss_type": "kto"}))),
            _ => {}
        }
        place.recipe(&fixture("models").join("llama"), &fixture("data_said").join(file), &more);
        let found = place.run(&["train", "-c", "run.yaml", "--dry-run"]);
        assert_eq!(found.code, Some(code), "{file}: {}", found.stderr);
        for part in parts {
            assert!(found.stderr.contains(part), "{file}: expected {part:?} in: {}", found.stderr);
        }
    }
}
