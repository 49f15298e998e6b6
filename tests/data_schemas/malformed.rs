//! Malformed rows of each schema.

use dpo_lora::data::records::Content;
use dpo_lora::data::{Input, RecordReader, Schema, Wanted};

use super::{configured, read_as, refused, refused_by};

#[path = "malformed/conversations.rs"]
mod conversations;
#[path = "malformed/graded.rs"]
mod graded;

const U: &str = r#"{"role": "user", "content": "q"}"#;
const A: &str = r#"{"role": "assistant", "content": "a"}"#;
const B: &str = r#"{"role": "assistant", "content": "b"}"#;

/// Rows in which `U`, `A` and `B` are replaced by messages of the user and of the assistant.
#[track_caller]
fn table(rows: &[(&str, &[&str])]) {
    for (row, parts) in rows {
        let row = row.replace("@U", U).replace("@A", A).replace("@B", B);
        refused(&row, parts);
    }
}

#[test]
fn triples() {
    let rows = [
        (
            r#"{"chosen": "The mill turns.", "rejected": "The mill sings.", "reference": "A mill stands."}"#,
            "reference (\"A mill stands.\") does not begin with the prompt",
        ),
        (
            r#"{"prompt": "Where is it?", "chosen": "a", "rejected": "b", "reference": "Where is it? There."}"#,
            "reference repeats prompt",
        ),
        (
            r#"{"prompt": [@U], "chosen": [@A], "rejected": [@B], "reference": [@U, @A]}"#,
            "reference repeats the messages of prompt",
        ),
        (
            r#"{"prompt": [@U], "chosen": [@A], "rejected": [@B], "reference": [@A, @U]}"#,
            "reference ends with a message of user",
        ),
    ];
    for (row, part) in rows {
        let row = row.replace("@U", U).replace("@A", A).replace("@B", B);
        let message = read_as(&row, &configured(""), Wanted::Triples).unwrap_err();
        assert!(message.starts_with("t.jsonl:2: ") && message.contains(part), "{row}: {message}");
        // Where nothing imitates it, the column says nothing about the pair.
        for wanted in [Wanted::Whole, Wanted::Everything, Wanted::Preferred] {
            let record = read_as(&row, &configured(""), wanted).unwrap().unwrap();
            let answers = match record.content {
                Content::Text { answers, .. } => answers.len(),
                Content::Chat { answers, .. } => answers.len(),
            };
            assert!(record.schema != Schema::TriplePreference && answers == 2, "{row}");
        }
    }
    table(&[(
        r#"{"prompt": "q", "chosen": "a", "rejected": "a", "reference": "c"}"#,
        &["chosen and rejected are equal"],
    )]);
    let input = [r#""c""#, "null", r#""d""#].map(|reference| {
        format!(r#"{{"prompt": "q", "chosen": [{U}, {A}], "rejected": [{U}, {B}], "score_chosen": 2, "score_rejected": 1, "reference": [{{"role": "assistant", "content": {reference}}}]}}"#)
            .replace(r#"[{"role": "assistant", "content": null}]"#, "null")
    });
    let reader = RecordReader::new(&configured("")).unwrap();
    for row in Input::text("t.jsonl", input.join("\n")).rows().unwrap() {
        assert!(reader.read(row.unwrap()).unwrap().is_some());
    }
    let forced = configured("format: triple-preference");
    for (row, parts) in [
        (r#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#, "lacks `reference`"),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "b", "reference": 3}"#,
            "reference must be a string, found a number (3)",
        ),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "b", "reference": " "}"#,
            "reference is empty (only white space)",
        ),
    ] {
        refused_by(&forced, row, &[parts]);
    }
}

#[test]
fn pairs() {
    table(&[
        ("[1]", &["must be a JSON object", "a list ([1])"]),
        ("{}", &["missing `chosen`", "no fields"]),
        (r#"{"prompt": "q", "chosen": "a"}"#, &["missing `rejected`", "found `prompt`, `chosen`"]),
        (
            r#"{"prompt": "q", "chosen": "a", "rejectd": "b"}"#,
            &["found `rejectd`: rename it (data.columns: {rejected: rejectd})"],
        ),
        (r#"{"prompt": "q", "chosen": "a", "rejected": null}"#, &["rejected must be a string", "found null"]),
        (r#"{"prompt": "q", "chosen": "a", "rejected": 3}"#, &["rejected must be a string", "a number (3)"]),
        (
            r#"{"prompt": "q", "chosen": true, "rejected": "b"}"#,
            &["chosen must be a string", "a boolean (true)"],
        ),
        (
            r#"{"prompt": null, "chosen": "x a", "rejected": "x b"}"#,
            &["found null", "data.columns: {prompt: null}"],
        ),
        (
            r#"{"prompt": 3, "chosen": "x a", "rejected": "x b"}"#,
            &["prompt must be a string", "a number (3)"],
        ),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "a"}"#,
            &["chosen and rejected are equal (a)", "remove it"],
        ),
        (r#"{"prompt": "q", "chosen": "a", "rejected": ""}"#, &["rejected is empty;", "two non-empty"]),
        (r#"{"prompt": "q", "chosen": " \n\t", "rejected": "b"}"#, &["chosen is empty (only white space)"]),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": [@B]}"#,
            &["chosen is a string", "rejected is a list", "both"],
        ),
        (
            r#"{"prompt": [@U], "chosen": "a", "rejected": "b"}"#,
            &["prompt must be a string where chosen and rejected are"],
        ),
        (
            r#"{"prompt": "q", "chosen": [@A], "rejected": [@B]}"#,
            &["prompt is a string (\"q\")", "make prompt a list"],
        ),
        (r#"{"prompt": [@U], "chosen": [@U, @A], "rejected": [@U, @B]}"#, &["repeat the messages of prompt"]),
        (
            r#"{"prompt": [@U], "chosen": [@A, @U], "rejected": [@B]}"#,
            &["chosen ends with a message of user"],
        ),
        (
            r#"{"prompt": [@U], "chosen": [@A], "rejected": [{"role": "system", "content": "b"}]}"#,
            &["rejected ends with a message of system"],
        ),
        (
            r#"{"prompt": [@U, @B], "chosen": [@A], "rejected": [@B]}"#,
            &["prompt ends with a message of the assistant (b)", "chosen begins with another"],
        ),
        (
            r#"{"prompt": [@U], "chosen": [@A], "rejected": [{"role": "assistant", "content": " "}]}"#,
            &["rejected is empty (only white space)"],
        ),
        (r#"{"prompt": [@U], "chosen": [], "rejected": [@B]}"#, &["chosen is an empty list"]),
        (
            r#"{"prompt": [@U], "chosen": [@A], "rejected": [{"role": "assistant"}]}"#,
            &["rejected[0] has no `content`"],
        ),
        (
            r#"{"prompt": [@U], "chosen": [@A], "rejected": [{"from": "bard", "value": "b"}]}"#,
            &["rejected[0].from is \"bard\", an unknown speaker"],
        ),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "b", "label": 1.5}"#,
            &["label must be a number from 0", "1.5", "{label: null}"],
        ),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "b", "label": "good"}"#,
            &["label must be a number", "\"good\""],
        ),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "b", "votes_chosen": 0, "votes_rejected": 0}"#,
            &["votes_chosen and votes_rejected have no votes"],
        ),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "b", "votes_chosen": -1, "votes_rejected": 2}"#,
            &["votes_chosen must be a number of votes", "-1"],
        ),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "b", "label": 1, "votes_chosen": 1, "votes_rejected": 2}"#,
            &["label and the votes", "both"],
        ),
    ]);
}

#[test]
fn pairs_with_an_implicit_prompt() {
    table(&[
        (r#"{"chosen": "Paris", "rejected": "London"}"#, &["missing `prompt`", "no beginning in common"]),
        (
            r#"{"chosen": "Paris", "rejected": "London", "task": "capital"}"#,
            &["found `task`", "data.columns: {prompt: NAME}"],
        ),
        (r#"{"chosen": "same", "rejected": "same"}"#, &["are equal (same)"]),
        (r#"{"chosen": [@A], "rejected": [@B]}"#, &["missing `prompt`", "no first message in common"]),
        (r#"{"promt": "q", "chosen": "q a", "rejected": "q b"}"#, &["found `promt`: rename it"]),
        (r#"{"chosen": [@U, @A], "rejected": [@U, @A, @U]}"#, &["rejected ends with a message of user"]),
        (
            r#"{"prompt": "other words", "chosen": [@U, @A], "rejected": [@U, @B]}"#,
            &["prompt (\"other words\") is not among the messages", "\"q\""],
        ),
    ]);
}

#[test]
fn judged_answers_and_texts() {
    table(&[
        (r#"{"prompt": "q", "completion": "a", "label": 2}"#, &["label must be true", "a number (2)"]),
        (r#"{"prompt": "q", "completion": "a", "label": null}"#, &["label must be true", "found null"]),
        (r#"{"completion": "a"}"#, &["missing `prompt`", "`text`"]),
        (r#"{"completion": "a", "label": true}"#, &["missing `prompt`"]),
        (r#"{"prompt": "q", "completion": " "}"#, &["completion is empty (only white space)"]),
        (r#"{"prompt": "q", "completion": ["a"]}"#, &["completion must be a string where prompt is"]),
        (r#"{"prompt": [@U], "completion": "a"}"#, &["completion must be a list of messages"]),
        (r#"{"prompt": [@U], "completion": [@U, @A]}"#, &["completion repeats"]),
        (r#"{"prompt": [@U], "completion": [@U]}"#, &["completion repeats"]),
        (r#"{"text": "  "}"#, &["text is empty"]),
        (r#"{"text": 3}"#, &["text must be a string", "a number (3)"]),
        (r#"{"messages": "q"}"#, &["messages must be a list of messages", "a string"]),
        (r#"{"messages": []}"#, &["messages is an empty list"]),
        (r#"{"messages": [@U]}"#, &["messages ends with a message of user"]),
        (r#"{"messages": [@A], "label": true}"#, &["messages has one message"]),
        (
            r#"{"messages": [@U, {"role": "assistant", "contents": "a"}]}"#,
            &["messages[1] has no `content`; found `contents`"],
        ),
        (r#"{"mesages": [@U]}"#, &["found `mesages`, which is probably meant to be `messages`"]),
        (r#"{"prompt": "q", "completions": "a"}"#, &["completions must be a list"]),
        (r#"{"prompt": "q", "completions": ["a"]}"#, &["completions has 1 entries", "two or more"]),
        (
            r#"{"prompt": "q", "completions": ["a", "b", "a"]}"#,
            &["completions[0] and completions[2] are equal"],
        ),
        (r#"{"prompt": "q", "completions": ["a", " "]}"#, &["completions[1] is empty"]),
        (
            r#"{"prompt": "q", "completions": [{"response": "a"}, {"response": "b"}]}"#,
            &["completions[0] must be a string", "ultrafeedback"],
        ),
        (r#"{"completions": ["a", "b"]}"#, &["missing `prompt`"]),
    ]);
}

#[test]
fn unknown_columns_name_the_nearest_format() {
    table(&[
        (
            r#"{"question": "q", "answer": "b"}"#,
            &["missing `chosen`; found `question`, `answer`", "Every pair", "nearest format", "data.columns"],
        ),
        (
            r#"{"prompt": "q", "response_1": "a", "response_2": "b"}"#,
            &["nearest format is helpsteer2-preference, which also needs `preference_strength`"],
        ),
        (
            r#"{"history": "q", "human_ref_A": "a", "labels": 1}"#,
            &["nearest format is shp, which also needs `human_ref_B`"],
        ),
        (r#"{"x": 1}"#, &["missing `chosen`; found `x`"]),
        (r#"{"conversatons": [@U]}"#, &["probably meant to be `conversations`"]),
    ]);
    let many: Vec<String> = (0..500).map(|i| format!("\"c{i}\": 1")).collect();
    refused(&format!("{{{}}}", many.join(", ")), &["`c23`, and 476 more"]);
}

#[test]
fn a_forced_format_needs_its_columns() {
    refused_by(
        &configured("format: orca-dpo-pairs"),
        r#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#,
        &[
            "the format orca-dpo-pairs needs `question`, `chosen`, `rejected`; the row lacks `question` and has `prompt`, `chosen`",
        ],
    );
    refused_by(
        &configured("format: hh-rlhf"),
        r#"{"chosen": "x a", "rejected": "x b"}"#,
        &["chosen begins with \"x a\""],
    );
    refused_by(&configured("format: shp"), "{}", &["has no columns"]);
    refused_by(
        &configured("format: implicit-prompt"),
        r#"{"prompt": "lost words", "chosen": "x a", "rejected": "x b"}"#,
        &["`prompt` (\"lost words\") is not read", "set data.format to preference", "{prompt: null}"],
    );
    refused_by(
        &configured("format: implicit-prompt"),
        r#"{"prompt": "Where?", "chosen": "Paris", "rejected": "London"}"#,
        &["no beginning in common, which this format takes", "does not read `prompt`", "preference"],
    );
}
