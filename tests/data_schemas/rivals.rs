//! Columns that could be read in place of others, texts that nothing reads, and prompts that stand twice.

use dpo_lora::data::doubt::About;
use dpo_lora::data::{Kind, Schema};

use super::{configured, read, refused, refused_by};

#[track_caller]
fn accepted(row: &str) -> dpo_lora::Record {
    read(row, &configured("")).unwrap_or_else(|error| panic!("{row}: {error}")).unwrap()
}

#[track_caller]
fn doubts(row: &str) -> Vec<About> {
    accepted(row).doubts.iter().map(|doubt| doubt.about).collect()
}

/// Columns of other formats that prefer `x` to `y`.
const OTHERS: [(&str, &str); 8] = [
    (
        "helpsteer2-preference",
        r#""prompt": "q", "response_1": "y", "response_2": "x", "preference_strength": 2"#,
    ),
    ("ultrafeedback-argilla", r#""prompt": "q", "chosen_response": "x", "rejected_response": "y""#),
    ("pku-saferlhf", r#""prompt": "q", "response_0": "x", "response_1": "y", "better_response_id": 0"#),
    (
        "helpsteer3-preference",
        r#""context": "q", "response1": "x", "response2": "y", "overall_preference": -3"#,
    ),
    ("votes", r#""prompt": "q", "response_a": "x", "response_b": "y", "wins_a": 3, "wins_b": 0"#),
    ("shp", r#""history": "q", "human_ref_A": "x", "human_ref_B": "y", "labels": 1"#),
    ("stack-exchange-paired", r#""question": "q", "response_j": "x", "response_k": "y""#),
    (
        "summarize-from-feedback",
        r#""info": {"article": "q"}, "summaries": [{"text": "x"}, {"text": "y"}], "choice": 0"#,
    ),
];

#[test]
fn chosen_and_rejected_are_never_replaced_by_another_pair() {
    for (name, columns) in OTHERS {
        let row = |chosen: &str, rejected: &str| {
            format!(r#"{{{columns}, "chosen": "{chosen}", "rejected": "{rejected}"}}"#)
        };
        refused(&row("y", "x"), &["the row has two pairs", name, "{chosen: null, rejected: null}"]);
        refused(&row("good", "bad"), &["chosen is \"good\"", "the preferred answer is \"x\""]);
        assert_eq!(accepted(&row("x", "y")).schema.name(), name);
        for yaml in ["columns: {chosen: null, rejected: null}".to_string(), format!("format: {name}")] {
            let found = read(&row("y", "x"), &configured(&yaml)).unwrap().unwrap();
            assert_eq!(found.schema.name(), name, "{yaml}");
        }
    }
    let openai = r#"{"input": {"messages": [{"role": "user", "content": "q"}]}, "preferred_output": [{"role": "assistant", "content": "x"}],
        "non_preferred_output": [{"role": "assistant", "content": "y"}], "chosen": "y", "rejected": "x"}"#;
    refused(&openai.replace('\n', " "), &["the row has two pairs", "openai-preference"]);
    let scored = r#"{"instruction": "q", "completions": [{"response": "x", "overall_score": 1}], "chosen": "x", "rejected": "y"}"#;
    assert_eq!(accepted(scored).schema, Schema::AlpacaRanking);
}

#[test]
fn columns_of_the_same_meaning_that_differ_are_refused() {
    let votes = |more: &str| {
        format!(
            r#"{{"prompt": "q", "response_a": "x", "response_b": "y", "wins_a": 3, "wins_b": 1, {more}}}"#
        )
    };
    refused(
        &votes(r#""answer_a": "z""#),
        &["`response_a` (\"x\") and `answer_a` (\"z\") mean the same", ": null}"],
    );
    refused(&votes(r#""votes_a": 1, "votes_b": 3"#), &["`wins_a` (3) and `votes_a` (1)"]);
    refused(&votes(r#""label": 0"#), &["label (0) is not read", "{label: null}"]);
    assert_eq!(doubts(&votes(r#""winner": "b""#)), [About::Preference]);
    assert_eq!(doubts(&votes(r#""winner": "a", "answer_a": "x", "votes_a": 3.0"#)), []);
    let judged = |label: &str, tag: &str| {
        format!(r#"{{"prompt": "q", "completion": "a", "label": {label}, "kto_tag": {tag}}}"#)
    };
    refused(&judged("true", "false"), &["`label` (true) and `kto_tag` (false)"]);
    assert_eq!(accepted(&judged("true", "1")).kind, Kind::Judged { desirable: true });
    refused(
        r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "conversations": [{"from": "human", "value": "q2"}, {"from": "gpt", "value": "a2"}]}"#,
        &["`conversations`", "`messages`", "mean the same and differ"],
    );
    let systems = r#"{"system": "Be exact.", "system_prompt": "Be brief.", "prompt": "q", "chosen": "a", "rejected": "b"}"#;
    refused(systems, &["`system` (\"Be exact.\") and `system_prompt`"]);
}

#[test]
fn texts_that_nothing_reads_are_doubts() {
    let row = |name: &str| {
        format!(
            r#"{{"prompt": "Which river?", "chosen": "a", "rejected": "b", "{name}": "The Loire is a long river."}}"#
        )
    };
    for name in ["evidence", "background", "persona", "title", "code", "text", "user_query", "facts"] {
        assert_eq!(doubts(&row(name)), [About::Unread], "{name}");
        let out = read(&row(name), &configured(&format!("columns: {{{name}: null}}"))).unwrap().unwrap();
        assert_eq!(out.doubts.len(), 0, "{name}");
    }
    for name in ["id", "source_url", "rationale", "chosen_model", "generations"] {
        assert_eq!(doubts(&row(name)), [], "{name}");
    }
    refused(&row("systemPrompt"), &["`systemPrompt`", "is not read"]);
}

#[test]
fn prompts_that_stand_twice_are_refused_or_doubts() {
    let pair = |chosen: &str, rejected: &str| {
        format!(r#"{{"prompt": "Q one?", "chosen": "{chosen}", "rejected": "{rejected}"}}"#)
    };
    for (start, end) in [
        ("", " "),
        (r"\n\nHuman: ", r"\n\nAssistant: "),
        (r"<|im_start|>user\n", r"<|im_end|>\n<|im_start|>assistant\n"),
        ("### Question: ", r"\n### Answer: "),
    ] {
        let (good, bad) = (format!("{start}Q one?{end}good"), format!("{start}Q one?{end}bad"));
        refused(&pair(&good, &bad), &["chosen and rejected repeat prompt (Q one?)"]);
        assert_eq!(doubts(&pair(&good, "bad")), [About::Repeated], "{start}");
    }
    let messages = r#"{"messages": [{"role": "user", "content": "Q one?"}, {"role": "assistant", "content": "User: Q one?\nAssistant: good"}]}"#;
    assert_eq!(doubts(messages), [About::Repeated]);
    let transcripts = r#"{"chosen": "\n\nHuman: Q\n\nAssistant: good\n\nHuman: thx", "rejected": "\n\nHuman: Q\n\nAssistant: bad"}"#;
    assert_eq!(doubts(transcripts), [About::Turn]);
}

#[test]
fn a_gold_answer_is_not_the_rejected_one() {
    let row = r#"{"prompt": "q", "chosen": "a", "rejected": "b", "reference": "b"}"#;
    refused_by(&configured("format: triple-preference"), row, &["reference is the rejected answer"]);
}

#[test]
fn remedies_quote_names_and_places_of_numbers_are_named() {
    refused(
        r#"{"prompt": "q", " chosen": "a", "rejected": "b"}"#,
        &["found ` chosen`", r#"(data.columns: {chosen: " chosen"})"#],
    );
    refused(
        r#"{"prompt": "q", "completions": ["a", "b", "c"], "scores": [1, NaN, 0]}"#,
        &["scores[1] must be a number, found NaN"],
    );
}
