//! Data from which a run would learn nothing, or not what its user expects, and how the program reports it.

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::Place;

/// A template that shows roles, contents and a system prompt.
const PLAIN: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\
                     {% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
/// Like the templates of some models, this one writes the system prompt into the last message if that is the user's.
const VANISHING: &str = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>\
                         {% if loop.last and m.role == 'user' %}{{ messages[0].content }} {% endif %}{{ m.content }}\n\
                         {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

fn dry_run(rows: &[Value], more: &[(&str, Value)]) -> (i32, String) {
    let place = Place::new();
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    place.write("data.jsonl", lines.join("\n"));
    place.recipe(&fixture("models").join("llama"), &place.path("data.jsonl"), more);
    let found = place.run(&["train", "-c", "run.yaml", "--dry-run"]);
    (found.code.unwrap(), found.stderr)
}

fn pair(chosen: &str, rejected: &str) -> Value {
    json!({"prompt": "q", "chosen": chosen, "rejected": rejected})
}

fn chat(prompt: Value, chosen: Value, rejected: Value) -> Value {
    let turn = |mut fields: Value| {
        fields["role"] = "assistant".into();
        json!([fields])
    };
    json!({"prompt": prompt, "chosen": turn(chosen), "rejected": turn(rejected)})
}

#[track_caller]
fn says(found: &(i32, String), code: i32, parts: &[&str]) {
    assert_eq!(found.0, code, "{}", found.1);
    for part in parts {
        assert!(found.1.contains(part), "expected {part:?} in: {}", found.1);
    }
}

#[test]
fn answers_without_a_difference_are_refused_or_left_out() {
    let user = json!([{"role": "user", "content": "2+2?"}]);
    let reasoning = chat(
        user,
        json!({"content": "4", "reasoning_content": "two twos"}),
        json!({"content": "4", "reasoning_content": "eh"}),
    );
    let template = ("data.chat_template", json!(PLAIN));
    says(
        &dry_run(&[reasoning], &[template]),
        1,
        &["data.jsonl:1: chosen and rejected are equal once they are rendered", "teach nothing"],
    );
    let long = |end: &str| format!("{}{end}", "A ".repeat(60));
    let rows = [pair(" yes", " no"), pair(&long("good"), &long("bad"))];
    says(
        &dry_run(&rows, &[("data.max_length", json!(20))]),
        0,
        &[
            "1 of 2 records were left out: ",
            "data.jsonl:2: chosen and rejected are equal in what truncation leaves",
        ],
    );
}

#[test]
fn text_of_the_prompt_that_is_lost_is_shown() {
    let prompt =
        json!([{"role": "system", "content": "Answer in French."}, {"role": "user", "content": "A river?"}]);
    let row = chat(prompt, json!({"content": "La Loire"}), json!({"content": "The Elbe"}));
    says(
        &dry_run(&[row.clone(), row.clone()], &[("data.chat_template", json!(VANISHING))]),
        0,
        &["warning: in 2 of 2 records", "data.jsonl:1: \"nswer in French. A river?", "(and 1 more)"],
    );
    let (code, said) = dry_run(&[row], &[("data.chat_template", json!(PLAIN))]);
    assert!(code == 0 && !said.contains("warning"), "{said}");
}

/// A check says all that a dry run says of its records.
#[test]
fn a_check_has_the_doubts_of_a_run() {
    let prompt =
        json!([{"role": "system", "content": "Answer in French."}, {"role": "user", "content": "A river?"}]);
    let row = chat(prompt, json!({"content": "La Loire"}), json!({"content": "The Elbe"}));
    let place = Place::new();
    place.write("data.jsonl", row.to_string());
    let more = [("data.chat_template", json!(VANISHING))];
    place.recipe(&fixture("models").join("llama"), &place.path("data.jsonl"), &more);
    let found = place.run(&["data", "check", "--config", "run.yaml", "--json"]);
    let report: Value = serde_json::from_str(&found.stdout).unwrap();
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("in 1 of 1 records the rendered conversation lacks text"), "{warnings}");
}

#[test]
fn columns_that_nothing_reads_are_told_of_once() {
    let row = |i: usize| {
        json!({"prompt": format!("Q {i}"), "chosen": " a", "rejected": " b", "evidence": format!("The fact of number {i}"),
               "kind": "an open question"})
    };
    let rows: Vec<Value> = (0..9).map(row).collect();
    let (code, said) = dry_run(&rows, &[]);
    let part = "in 9 of 9 records a column with text is not read: `evidence` (";
    assert!(code == 0 && said.contains(part) && said.contains("{evidence: null})"), "{said}");
    assert!(!said.contains("kind: null"), "{said}");
}

#[test]
fn labels_are_counted() {
    let rows = [
        json!({"prompt": "q", "chosen": " a", "rejected": " b", "label": 0}),
        json!({"prompt": "q", "chosen": " a", "rejected": " c", "label": 0.7}),
        pair(" a", " d"),
    ];
    says(&dry_run(&rows, &[]), 0, &["2 of 3 pairs have a label other than 1; 1 are below 0.5"]);
}

#[test]
fn all_invalid_records_are_listed_and_can_be_skipped() {
    let rows = [pair(" a", " b"), pair(" a", ""), pair(" a", " a"), pair(" a", " c")];
    let both = ["data.jsonl:2: rejected is empty", "data.jsonl:3: chosen and rejected are equal"];
    says(&dry_run(&rows, &[]), 1, &[both[0], both[1], "2 of 4 records are invalid", "data.on_error: skip"]);
    let skip = ("data.on_error", json!("skip"));
    says(
        &dry_run(&rows, std::slice::from_ref(&skip)),
        0,
        &["2 of 4 records are invalid and were skipped", both[0], "(and 1 more)", "2 training pairs"],
    );
    let worse: Vec<Value> = (0..40).map(|_| pair(" a", "")).collect();
    says(&dry_run(&worse, &[]), 1, &["data.jsonl:1: rejected is empty", "so are all 40 records"]);
    let mixed: Vec<Value> = worse.iter().cloned().chain([pair(" a", " b")]).collect();
    let (code, said) = dry_run(&mixed, &[]);
    assert_eq!((code, said.matches("data.jsonl:").count()), (1, 24), "{said}");
    assert!(said.contains("and 16 more") && said.contains("40 of 41 records"), "{said}");
    says(&dry_run(&worse, &[skip]), 1, &["no records in"]);
}

/// `skipped.jsonl` has every skipped record of training and held-out data; a run without any has no such file.
#[test]
fn skipped_records_are_listed_in_the_run() {
    let place = Place::new();
    let lines = |rows: &[Value]| rows.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let bad: Vec<Value> =
        (0..30).map(|_| pair(" a", "")).chain([pair(" a", " b"), pair(" c", " c")]).collect();
    place.write("data.jsonl", lines(&bad));
    place.write("held-out.jsonl", lines(&[pair(" a", " b"), json!({"prompt": "q"})]));
    let more = [
        ("data.on_error", json!("skip")),
        ("data.eval", json!("held-out.jsonl")),
        ("train.max_steps", json!(1)),
        ("train.per_device_train_batch_size", json!(1)),
        ("train.gradient_accumulation_steps", json!(1)),
    ];
    place.recipe(&fixture("models").join("llama"), &place.path("data.jsonl"), &more);
    let said = place.run(&["train", "-c", "run.yaml"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stderr.contains("skipped.jsonl lists the skipped records (all of them)"), "{}", said.stderr);
    let listed: Vec<Value> = String::from_utf8(place.read("run/skipped.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(listed.len(), 32);
    assert_eq!((&listed[29]["line"], &listed[30]["line"]), (&json!(30), &json!(32)));
    assert!(listed[30]["message"].as_str().unwrap().starts_with("chosen and rejected are equal"));
    assert!(listed[31]["file"].as_str().unwrap().ends_with("held-out.jsonl"));
    place.write("data.jsonl", lines(&[pair(" a", " b")]));
    place.write("held-out.jsonl", lines(&[pair(" a", " b")]));
    assert_eq!(place.run(&["train", "-c", "run.yaml", "--overwrite"]).code, Some(0));
    assert!(!place.path("run/skipped.jsonl").exists());
}

/// The fixture's tokenizer knows the marks of `chatml` and not those of `gemma`; `zephyr` writes its own as text.
#[test]
fn marks_of_a_built_in_template_that_are_no_tokens_are_named() {
    let row =
        chat(json!([{"role": "user", "content": "Q"}]), json!({"content": "a"}), json!({"content": "b"}));
    let said = |name: &str| dry_run(std::slice::from_ref(&row), &[("data.chat_template", json!(name))]).1;
    let gemma = said("gemma");
    for part in ["the chat template `gemma` writes <start_of_turn> (", "letters to this tokenizer"] {
        assert!(gemma.contains(part), "{part}: {gemma}");
    }
    assert_eq!(gemma.matches("letters to this tokenizer").count(), 1, "{gemma}");
    for name in ["chatml", "zephyr"] {
        assert!(!said(name).contains("letters to this tokenizer"), "{name}");
    }
}

/// As in Parquet shards of the Hub: a glob, a filter on a number, rows with file and number.
#[test]
fn parquet_files_are_trained_on() {
    let place = Place::new();
    for shard in ["a", "b"] {
        place.write(
            &format!("{shard}.parquet"),
            std::fs::read(fixture("parquet/pairs-zstd.parquet")).unwrap(),
        );
    }
    let more = [("data.chat_template", json!(PLAIN)), ("data.filter", json!("score_chosen >= 0.5"))];
    place.recipe(&fixture("models").join("llama"), &place.path("*.parquet"), &more);
    let found = place.run(&["train", "-c", "run.yaml", "--dry-run"]);
    says(
        &(found.code.unwrap(), found.stderr),
        0,
        &["4 records were left out by data.filter", "10 training pairs", "Question 2?"],
    );
}

#[test]
fn sources_have_settings_weights_and_a_limit() {
    let place = Place::new();
    let rows = |n: usize, question: &str| -> String {
        let row = |i| {
            json!({question: format!("Q{i}"), "chosen": " yes", "rejected": " no", "score": i}).to_string()
        };
        (0..n).map(row).collect::<Vec<_>>().join("\n")
    };
    place.write("a.jsonl", rows(8, "prompt"));
    place.write("b.jsonl", rows(10, "ask"));
    let sources = json!([
        {"path": place.path("a.jsonl"), "weight": 2.0},
        {"path": place.path("b.jsonl"), "weight": 0.5, "columns": {"prompt": "ask"}, "filter": "score >= 4"},
    ]);
    let mut said = Vec::new();
    for more in [vec![], vec![("data.limit", json!(9))]] {
        let more: Vec<_> = more.into_iter().chain([("data.train", sources.clone())]).collect();
        place.recipe(&fixture("models").join("llama"), &place.path("a.jsonl"), &more);
        let found = place.run(&["train", "-c", "run.yaml", "--dry-run"]);
        assert_eq!(found.code, Some(0), "{}", found.stderr);
        said.push(found.stderr);
    }
    // 2 × 8 and half of the 6 that pass the filter; then 2 × 8 and half of 1, rounded up.
    assert!(
        said[0].contains("19 training pairs") && said[0].contains("4 records were left out by data.filter"),
        "{}",
        said[0]
    );
    assert!(said[1].contains("17 training pairs"), "{}", said[1]);
}

#[test]
fn tokenized_data_are_kept_and_read_again() {
    let place = Place::new();
    let rows: Vec<String> = (0..50).map(|i| pair(&format!(" yes {i}"), " no").to_string()).collect();
    place.write("data.jsonl", rows.join("\n"));
    let run = |cache: Value, output: &str| {
        let more =
            [("data.cache", cache), ("output_dir", json!(place.path(output))), ("train.max_steps", json!(4))];
        place.recipe(&fixture("models").join("llama"), &place.path("data.jsonl"), &more);
        let found = place.run(&["train", "-c", "run.yaml"]);
        assert_eq!(found.code, Some(0), "{}", found.stderr);
        (found.stderr, std::fs::read(place.path(output).join("adapter/adapter_model.safetensors")).unwrap())
    };
    let directory = json!(place.path("kept"));
    let (_, in_memory) = run(json!("off"), "memory");
    let (first, written) = run(directory.clone(), "first");
    let (second, again) = run(directory.clone(), "second");
    assert!(!first.contains("tokenized data:") && second.contains("tokenized data:"), "{first}\n{second}");
    assert!(in_memory == written && written == again, "the same bytes from memory and from the file");
    let file = std::fs::read_dir(place.path("kept")).unwrap().map(|entry| entry.unwrap().path());
    let file = file.filter(|path| path.extension().is_some_and(|e| e == "tokens")).collect::<Vec<_>>();
    assert_eq!(file.len(), 1);
    std::fs::write(&file[0], b"dpodata1").unwrap();
    let (third, mended) = run(directory, "third");
    assert!(third.contains("the data are tokenized again") && mended == written, "{third}");
}
