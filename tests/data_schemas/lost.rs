//! Content that would be lost or misread silently.

use dpo_lora::data::records::Content;
use dpo_lora::data::{Input, Kind, Schema, records};

use super::{configured, read, refused};

/// Requires that the row is read.
#[track_caller]
fn accepted(row: &str) -> dpo_lora::Record {
    read(row, &configured("")).unwrap_or_else(|error| panic!("{row}: {error}")).unwrap()
}

#[test]
fn a_question_beside_an_implicit_prompt_is_refused_or_read() {
    // The columns of Intel's pairs, where the question is the prompt.
    let orca = accepted(
        r#"{"system": "Be exact.", "question": "What is 3+3?", "chosen": "<think>\nTwice 3.\n</think>\n6", "rejected": "<think>\nUnsure.\n</think>\n7"}"#,
    );
    assert_eq!(orca.schema, Schema::OrcaDpoPairs);
    let Content::Chat { prompt, .. } = orca.content else { panic!("a conversation") };
    assert_eq!(
        prompt.iter().map(dpo_lora::data::Message::content).collect::<Vec<_>>(),
        ["Be exact.", "What is 3+3?"]
    );
    let answers =
        r#""chosen": "<think>\nTwice 3.\n</think>\n6", "rejected": "<think>\nUnsure.\n</think>\n7"}"#;
    for name in ["problem", "query", "context", "history", "passage", "Aufgabe", "user_message", "q"] {
        let row = format!(r#"{{"{name}": "What is 3+3?", {answers}"#);
        let named = format!("`{name}` (\"What is 3+3?\") is not read");
        refused(
            &row,
            &[
                &named,
                "<think>\\n",
                &format!("data.columns: {{prompt: {name}}}"),
                &format!("{{{name}: null}}"),
            ],
        );
    }
    for (name, value) in [
        ("turns", r#"[{"role": "user", "content": "What is 3+3?"}]"#),
        ("history", r#"[["What is 2+2?", "4"]]"#),
        ("conversation", r#"[{"from": "human", "value": "What is 3+3?"}]"#),
    ] {
        refused(
            &format!(r#"{{"{name}": {value}, "chosen": "<t> 6", "rejected": "<t> 7"}}"#),
            &[&format!("`{name}`"), "is not read"],
        );
    }
}

#[test]
fn columns_about_the_row_are_no_question() {
    let extra = [
        ("id", "\"row 1\""),
        ("source", "\"a data set\""),
        ("chosen_model", "\"a large model\""),
        ("score_chosen", "\"9 of 10\""),
        ("category", "\"open questions\""),
        ("rejected-rationale", "\"It is wrong.\""),
        ("conversation_id", "\"c 1\""),
        ("language", "\"en GB\""),
        ("uuid", "\"7f\""),
        ("difficulty", "\"hard\""),
        ("tokens", "[1, 2]"),
        ("meta", "{\"a b\": \"c d\"}"),
        ("context", "\"\""),
        ("history", "[]"),
        ("system", "null"),
        ("question", "\"Where is it?\""),
        ("images", "[]"),
    ];
    for (name, value) in extra {
        let row = format!(
            r#"{{"{name}": {value}, "chosen": "Where is it? Here.", "rejected": "Where is it? There."}}"#
        );
        // The one schema that has this column reads it.
        if name != "question" {
            assert_eq!(accepted(&row).schema, Schema::ImplicitPrompt, "{name}");
        }
        let explicit = row.replacen('{', "{\"prompt\": \"Where is it?\", ", 1).replace("Where is it? ", " ");
        if name != "system" {
            assert_eq!(accepted(&explicit).schema, Schema::Preference, "{name}");
        }
    }
}

#[test]
fn parts_of_the_conversation_beside_an_explicit_prompt_are_refused() {
    for (name, value) in [
        ("context", "\"The text to read.\""),
        ("history", "[[\"a\", \"b\"]]"),
        ("instruction", "\"Answer in French.\""),
        ("document", "\"A long text.\""),
        ("conversation", "[{\"role\": \"user\", \"content\": \"Something else.\"}]"),
    ] {
        let row = format!(r#"{{"prompt": "q", "chosen": "1", "rejected": "2", "{name}": {value}}}"#);
        refused(
            &row,
            &[
                &format!("`{name}`"),
                "is not read, and the prompt does not contain it",
                &format!("{{{name}: null}}"),
            ],
        );
    }
    refused(
        r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "system": "Be exact."}"#,
        &["`system` (\"Be exact.\") is not read"],
    );
    refused(r#"{"prompt": "q", "completion": "a", "context": "x y"}"#, &["`context` (\"x y\") is not read"]);
    accepted(r#"{"prompt": "Read: x y. q", "chosen": "1", "rejected": "2", "context": " x y"}"#);
    let config = configured("columns: {context: null}");
    assert!(
        read(r#"{"prompt": "q", "chosen": "1", "rejected": "2", "context": "x y"}"#, &config)
            .unwrap()
            .is_some()
    );
}

const TURNS: &str =
    r#""messages": [{"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "Four."}]"#;

#[test]
fn a_part_of_the_conversation_beside_a_single_answer_is_refused() {
    let text = r#"{"text": "The answer is four.", "prompt": "What is 2+2?"}"#;
    for (row, part) in [
        (text.to_string(), "`prompt` (\"What is 2+2?\") is not read, and the text does not contain it"),
        (
            format!(r#"{{{TURNS}, "prompt": "Something else"}}"#),
            "`prompt` (\"Something else\") is not read, and the conversation does not contain it",
        ),
        (format!(r#"{{{TURNS}, "text": "Another text."}}"#), "`text` (\"Another text.\") is not read"),
        (
            format!(r#"{{{TURNS}, "prompt": "Cats are nice. What is 2+2?"}}"#),
            "`prompt` (\"Cats are nice. What is 2+2?\") is not read",
        ),
        (format!(r#"{{{TURNS}, "completion": "Five."}}"#), "`completion` (\"Five.\") is not read"),
        (r#"{"text": "a b", "completion": "c d"}"#.into(), "`completion` (\"c d\") is not read"),
        (r#"{"text": "Four.", "prompt": "Why is 2+2 equal to Four.?"}"#.into(), "is not read"),
        (
            r#"{"prompt": "q", "completion": "a", "text": "quite another text"}"#.into(),
            "`text` (\"quite another text\") is not read, and the prompt",
        ),
        (
            r#"{"prompt": "q", "completion": "a", "label": true, "text": "x y"}"#.into(),
            "`text` (\"x y\") is not read",
        ),
    ] {
        refused(&row, &[part, ": null}"]);
    }
    assert!(read(text, &configured("columns: {prompt: null}")).is_ok());
}

#[test]
fn columns_that_repeat_a_single_answer_are_accepted() {
    for row in [
        // The columns of HuggingFaceH4's conversations.
        format!(r#"{{{TURNS}, "prompt": "What is 2+2?", "prompt_id": "7"}}"#),
        format!(r#"{{{TURNS}, "text": "<|user|>\nWhat is 2+2?</s>\n<|assistant|>\nFour.</s>\n"}}"#),
        format!(r#"{{{TURNS}, "completion": "Four.", "prompt": null, "text": " "}}"#),
        // The prompt as a template writes it, and as JSON.
        format!(
            r#"{{{TURNS}, "prompt": "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"}}"#
        ),
        format!(
            r#"{{{TURNS}, "prompt": "[{{\"role\": \"user\", \"content\": \"What is 2+2?\"}}]"}}"#
        ),
        r#"{"text": "What is 2+2? Four.", "prompt": "What is 2+2? "}"#.into(),
        r#"{"prompt": "2+2=", "completion": " 4", "text": "2+2= 4"}"#.into(),
        r#"{"prompt": "The mo", "completion": "on rises", "text": "The moon rises"}"#.into(),
        // The columns of Stanford's alpaca.
        r#"{"instruction": "Add them.", "input": "2, 2", "output": "4", "text": "Below is an instruction.\n\n### Instruction:\nAdd them.\n\n### Input:\n2, 2\n\n### Response:\n4"}"#.into(),
        // What pandas writes where there is no value.
        r#"{"prompt": "q", "completion": "a", "text": NaN, "context": NaN}"#.into(),
    ] {
        accepted(&row);
    }
}

#[test]
fn calls_in_the_older_form_are_read() {
    let call = r#"{"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{\"a\": 1}"}}"#;
    let row = format!(r#"{{"messages": [{{"role": "user", "content": "q"}}, {call}]}}"#);
    let Content::Chat { answers, .. } = accepted(&row).content else { panic!("a conversation") };
    let function = &answers[0][1].fields()["tool_calls"][0]["function"];
    assert_eq!(function, &serde_json::json!({"name": "f", "arguments": {"a": 1}}));
}

#[test]
fn what_a_message_says_of_its_weight_is_obeyed_or_refused() {
    let user = r#"{"role": "user", "content": "q", "weight": 0}"#;
    let light = r#"{"role": "assistant", "content": "a", "weight": 0}"#;
    let whole = r#"{"role": "assistant", "content": "b", "weight": 1}"#;
    refused(
        &format!(r#"{{"messages": [{user}, {light}, {user}, {whole}]}}"#),
        &["a message of the assistant in messages (\"a\") has `weight`: 0", "remove the field"],
    );
    accepted(&format!(r#"{{"messages": [{user}, {whole}]}}"#));
    // Nothing imitates a prompt.
    accepted(&format!(r#"{{"prompt": [{user}, {light}, {user}], "completion": [{whole}]}}"#));
    accepted(&format!(r#"{{"messages": [{user}, {light}, {user}, {whole}], "label": true}}"#));
}

#[test]
fn what_is_not_text_is_refused() {
    for name in ["images", "image", "videos", "audio"] {
        let row = format!(r#"{{"prompt": "q", "chosen": "a", "rejected": "b", "{name}": ["x.png"]}}"#);
        refused(&row, &[&format!("`{name}` is not read: models of texts")]);
    }
    refused(r#"{"text": "a b", "image": {"bytes": "00"}}"#, &["`image` is not read"]);
    accepted(r#"{"text": "a b", "image": {"bytes": null, "path": null}}"#);
}

#[test]
fn tools_beside_strings_are_refused() {
    let row = |extra: &str| format!(r#"{{"prompt": "q", "chosen": "a", "rejected": "b", {extra}}}"#);
    refused(&row(r#""tools": [{"name": "f"}]"#), &["tools is for a chat template", "strings"]);
    refused(&row(r#""chat_template_kwargs": {"x": 1}"#), &["chat_template_kwargs is for a chat template"]);
    accepted(&row(r#""tools": [], "chat_template_kwargs": {}"#));
    accepted(&row(r#""tools": "[]", "chat_template_kwargs": {"x": null}"#));
}

#[test]
fn messages_as_text_are_refused_in_every_place() {
    let json = r#"[{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"a\"}]"#;
    let python = r#"[{'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': 'a'}]"#;
    let sharegpt = r#"[{\"from\": \"human\", \"value\": \"q\"}]"#;
    for (text, part) in [
        (json, "JSON text of a list of messages; give the list"),
        (sharegpt, "JSON text"),
        (python, "Python's notation"),
    ] {
        for (row, name) in [
            (format!(r#"{{"prompt": "q", "chosen": "{text}", "rejected": "b"}}"#), "chosen"),
            (format!(r#"{{"prompt": "q", "chosen": "a", "rejected": "{text}"}}"#), "rejected"),
            (format!(r#"{{"prompt": "{text}", "chosen": "a", "rejected": "b"}}"#), "prompt"),
            (format!(r#"{{"chosen": "{text}", "rejected": "{text} b"}}"#), "chosen"),
            (format!(r#"{{"prompt": "{text}", "completion": "a"}}"#), "prompt"),
            (format!(r#"{{"prompt": "q", "completion": "{text}", "label": true}}"#), "completion"),
            (format!(r#"{{"prompt": "q", "completions": ["a", "{text}"]}}"#), "completions[1]"),
            (format!(r#"{{"text": "{text}"}}"#), "text"),
            (format!(r#"{{"messages": "{text}"}}"#), "messages"),
            (format!(r#"{{"conversations": "{text}"}}"#), "conversations"),
            (format!(r#"{{"question": "q", "chosen": "{text}", "rejected": "b"}}"#), "chosen"),
            (format!(r#"{{"instruction": "{text}", "output": "a"}}"#), "instruction"),
            (format!(r#"{{"question": "q", "response_j": "a", "response_k": "{text}"}}"#), "response_k"),
        ] {
            refused(&row, &[&format!("{name} is"), part]);
        }
    }
    accepted(
        r#"{"prompt": "Give JSON.", "chosen": "[{\"role\": \"admin\"}]", "rejected": "{\"value\": 3}"}"#,
    );
}

#[test]
fn a_prompt_that_both_answers_repeat_is_refused() {
    let repeated =
        r#"{"prompt": "Q: river?\nA:", "chosen": "Q: river?\nA: Loire", "rejected": "Q: river?\nA: Hm"}"#;
    refused(
        repeated,
        &["chosen and rejected repeat prompt (Q: river?\nA:) at their beginning", "{prompt: null}"],
    );
    let implicit = read(repeated, &configured("columns: {prompt: null}")).unwrap().unwrap();
    let Content::Text { prompt, answers } = implicit.content else { panic!("strings") };
    assert_eq!((prompt.as_str(), answers), ("Q: river?\nA:", vec![" Loire".to_string(), " Hm".into()]));
    for row in [
        r#"{"prompt": "", "chosen": "a", "rejected": "b"}"#,
        r#"{"prompt": "1", "chosen": "10", "rejected": "12"}"#,
        r#"{"prompt": "Say it.", "chosen": "Say it. Now.", "rejected": "No."}"#,
    ] {
        accepted(row);
    }
}

#[test]
fn labels_are_told_apart_from_assumptions() {
    let pair = |label: &str| {
        accepted(&format!(r#"{{"prompt": "Name a river.", "chosen": " Loire", "rejected": " Hm"{label}}}"#))
    };
    let found: Vec<_> = [r#", "label": 0"#, r#", "label": 1"#, r#", "label": null"#, ""]
        .map(pair)
        .iter()
        .map(|record| (record.labelled, record.kind))
        .collect();
    let kind = Kind::pair;
    assert_eq!(found, [(true, kind(0.0)), (true, kind(1.0)), (false, kind(1.0)), (false, kind(1.0))]);
}

#[test]
fn kto_and_sharegpt_rows_are_read() {
    let judged = accepted(r#"{"prompt": "q", "completion": "a", "label": true}"#);
    assert_eq!(
        (judged.schema.name(), judged.kind),
        ("unpaired-preference", Kind::Judged { desirable: true })
    );
    let sharegpt = accepted(
        r#"{"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}"#,
    );
    assert_eq!((sharegpt.schema.name(), sharegpt.kind), ("sharegpt-ranking", Kind::PAIR));
}

#[test]
fn null_columns_of_joined_data_sets_are_missing_columns() {
    let row = r#"{"question": "q", "chosen": "a", "rejected": "b", "conversations": null, "system": null, "label": null,
        "completions": null, "chosen_response": null, "input": null, "preference_strength": null, "tools": null}"#;
    assert_eq!(accepted(&row.replace('\n', " ")).schema, Schema::OrcaDpoPairs);
}

#[test]
fn a_file_has_one_schema() {
    let lines = |rows: &[&str]| {
        let text = rows.join("\n");
        records::read(&[Input::text("t.jsonl", text)])
            .map(|record| record.map_err(|error| error.to_string()))
            .collect::<Vec<_>>()
    };
    let orca = r#"{"question": "q", "chosen": "a x", "rejected": "a y"}"#;
    let implicit = r#"{"chosen": "a x", "rejected": "a y"}"#;
    let found = lines(&["", orca, orca, implicit, orca]);
    assert_eq!(found.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true]);
    let message = found[2].as_ref().unwrap_err();
    for part in
        ["t.jsonl:4: ", "this row has the format implicit-prompt, but line 2 has orca-dpo-pairs", "mixed"]
    {
        assert!(message.contains(part), "{message}");
    }
    let explicit = r#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#;
    assert!(lines(&[explicit, implicit])[1].as_ref().unwrap_err().contains("implicit-prompt"));
    // Forms that name every column may be mixed.
    let forms = [
        explicit,
        r#"{"prompt": "q", "completion": "a"}"#,
        r#"{"text": "a"}"#,
        r#"{"prompt": "q", "completions": ["a", "b"]}"#,
    ];
    assert!(lines(&forms).iter().all(Result::is_ok));
    // Two files may have different schemas.
    let inputs = [Input::text("a", orca), Input::text("b", implicit)];
    assert_eq!(records::load(&inputs).unwrap().len(), 2);
}
