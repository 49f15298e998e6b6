//! Preference records (strings or conversations) with a specific error for every way in which one can be invalid.

use std::sync::Arc;

use serde_json::Value as Json;

use super::answers;
pub use super::content::Content;
use super::example::{Kind, Origin};
use super::fields::{Fields, described, equal, shortened};
use super::messages::{conversation, kwargs, messages, tools};
use super::source::{Input, Row};
use crate::error::{Error, Result, nearest};

/// A prompt, its answers and their kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The origin of the record.
    pub origin: Origin,
    /// The original data set, if the record names it in `source`; metrics can be split by it.
    pub source: Option<Arc<str>>,
    /// The kind of the record: a pair, a ranked list or a single answer.
    pub kind: Kind,
    /// The prompt and the answers.
    pub content: Content,
}

/// Returns the records of `inputs` in order. An error concerns a single record; the following ones are still returned,
/// so that a checker can list all errors.
pub fn read(inputs: &[Input]) -> impl Iterator<Item = Result<Record>> {
    inputs.iter().flat_map(|input| -> Box<dyn Iterator<Item = Result<Record>>> {
        match input.rows() {
            Ok(rows) => Box::new(rows.map(|row| Record::parse(row?))),
            Err(e) => Box::new(std::iter::once(Err(e))),
        }
    })
}

/// Reads all records of `inputs`.
///
/// # Errors
/// Fails at the first invalid record, or if there are no records.
pub fn load(inputs: &[Input]) -> Result<Vec<Record>> {
    let records = read(inputs).collect::<Result<Vec<_>>>()?;
    if records.is_empty() {
        return Err(Error::Data(format!("no records in {} input(s): every file is empty", inputs.len())));
    }
    Ok(records)
}

impl Record {
    /// Parses a row into strings or conversations. The prompt of a pair is explicit or the common prefix of both
    /// answers (TRL's `extract_prompt`). Other records are recognized by their columns (`answers.rs`). Unknown fields
    /// are ignored, as TRL ignores additional columns.
    ///
    /// # Errors
    /// Returns [`Error::Record`] with field, value and remedy.
    pub fn parse(row: Row) -> Result<Self> {
        let Row { origin, value } = row;
        let parsed = match value {
            Json::Object(fields) => parse(fields),
            other => Err(format!(
                "a record must be a JSON object with `chosen` and `rejected` (or `completion`, `completions`, `messages`, \
                 `text`), found {}",
                described(&other)
            )),
        };
        match parsed {
            Ok((source, kind, content)) => Ok(Self { origin, source, kind, content }),
            Err(message) => Err(origin.error(message)),
        }
    }
}

fn parse(mut fields: Fields) -> Result<(Option<Arc<str>>, Kind, Content), String> {
    let source = fields.get("source").and_then(Json::as_str).map(Arc::from);
    let is_pair = fields.contains_key("chosen") || fields.contains_key("rejected");
    let (kind, content) = match if is_pair { None } else { answers::parse(&mut fields)? } {
        Some(other) => other,
        None => pair(fields)?,
    };
    Ok((source, kind, content))
}

fn pair(mut fields: Fields) -> Result<(Kind, Content), String> {
    let kind = Kind::Pair { label: label(fields.get("label"))? };
    let chosen = required(&fields, "chosen")?;
    let rejected = required(&fields, "rejected")?;
    let content = match (chosen, rejected) {
        (Json::String(chosen), Json::String(rejected)) => text_pair(&fields, chosen, rejected)?,
        (Json::Array(chosen), Json::Array(rejected)) => {
            let (chosen, rejected) = (messages("chosen", chosen)?, messages("rejected", rejected)?);
            let (prompt, chosen, rejected) = conversation(&fields, chosen, rejected)?;
            let answers = vec![chosen, rejected];
            Content::Chat { prompt, answers, tools: tools(&mut fields)?, kwargs: kwargs(&mut fields)? }
        }
        (chosen, rejected) => return Err(not_a_pair(chosen, rejected)),
    };
    Ok((kind, content))
}

fn not_a_pair(chosen: &Json, rejected: &Json) -> String {
    for (name, value) in [("chosen", chosen), ("rejected", rejected)] {
        if !value.is_string() && !value.is_array() {
            return format!("{name} must be a string or a list of messages, found {}", described(value));
        }
    }
    format!(
        "chosen is {} but rejected is {}; both must be strings or both lists of messages",
        described(chosen),
        described(rejected)
    )
}

/// Returns the field `name`. If it is missing, the error suggests an existing field with a similar name.
fn required<'a>(fields: &'a Fields, name: &str) -> Result<&'a Json, String> {
    let others =
        || fields.keys().map(String::as_str).filter(|key| !["prompt", "chosen", "rejected"].contains(key));
    fields.get(name).ok_or_else(|| match nearest(name, others()) {
        Some(near) => format!("missing `{name}`; found `{near}`: rename it"),
        None if slip(fields).is_some() => slip(fields).unwrap_or_default(),
        None if fields.is_empty() => format!("missing `{name}`; the record has no fields"),
        None => {
            let found: Vec<_> = fields.keys().map(|key| format!("`{}`", shortened(key))).collect();
            format!(
                "missing `{name}`; found {}. Every pair needs `chosen` and `rejected`; one answer is `completion`, a ranked \
                 list `completions`, a text of its own `messages` or `text`",
                found.join(", ")
            )
        }
    })
}

/// Finds a field whose name is almost that of a field of another record kind.
fn slip(fields: &Fields) -> Option<String> {
    let near = |name: &&str, key: &str| strsim::damerau_levenshtein(name, key) == 1;
    fields.keys().find_map(|key| {
        let name = ["completion", "completions", "messages"].iter().find(|name| near(name, key))?;
        Some(format!("found `{key}`, which is probably meant to be `{name}`: rename it"))
    })
}

fn label(value: Option<&Json>) -> Result<f32, String> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(1.0) };
    let wrong = || {
        format!(
            "label must be a number from 0 (rejected is preferred) to 1 (chosen is, the default), found {}",
            described(value)
        )
    };
    // JSON has no NaN, and the range check would reject it anyway.
    value.as_f64().map(|label| label as f32).filter(|label| (0.0..=1.0).contains(label)).ok_or_else(wrong)
}

fn text_pair(fields: &Fields, chosen: &str, rejected: &str) -> Result<Content, String> {
    if chosen == rejected {
        return Err(equal(chosen));
    }
    let (prompt, chosen, rejected) = match fields.get("prompt") {
        Some(Json::String(prompt)) => (prompt.as_str(), chosen, rejected),
        Some(other) => {
            return Err(format!(
                "prompt must be a string where chosen and rejected are, found {}{}",
                described(other),
                if other.is_null() { "; leave it out if chosen and rejected begin with it" } else { "" }
            ));
        }
        None => {
            refuse_misspelt_prompt(fields)?;
            let border = common_text(chosen, rejected);
            (&chosen[..border], &chosen[border..], &rejected[border..])
        }
    };
    for (name, text) in [("chosen", chosen), ("rejected", rejected)] {
        if text.is_empty() {
            return Err(format!("{name} is empty; every pair needs two non-empty completions"));
        }
    }
    if prompt.is_empty() && !fields.contains_key("prompt") {
        return Err(format!(
            "missing `prompt`, and chosen ({}) and rejected ({}) have no beginning in common that could be it",
            shortened(chosen),
            shortened(rejected)
        ));
    }
    Ok(Content::Text { prompt: prompt.into(), answers: vec![chosen.into(), rejected.into()] })
}

/// Rejects a misspelt `prompt` field. Without `prompt` the prompt is extracted from the answers, and a misspelt one
/// would be silently ignored.
fn refuse_misspelt_prompt(fields: &Fields) -> Result<(), String> {
    match nearest("prompt", fields.keys().map(String::as_str)) {
        // At most two typos: `prompt_id` is a column in its own right.
        Some(near) if strsim::damerau_levenshtein("prompt", near) <= 2 => {
            Err(format!("missing `prompt`; found `{near}`: rename it"))
        }
        _ => Ok(()),
    }
}

/// TRL's `extract_prompt` for strings: returns the length in bytes of the common prefix, without a space before the
/// first difference. If one text is a prefix of the other, TRL leaves the last character to the completions.
fn common_text(chosen: &str, rejected: &str) -> usize {
    let mut previous = None;
    for ((byte, left), right) in chosen.char_indices().zip(rejected.chars()) {
        if left != right {
            return match previous {
                Some((at, ' ')) => at,
                _ => byte,
            };
        }
        previous = Some((byte, left));
    }
    previous.map_or(0, |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &'static str) -> Result<Record> {
        // The record is on line 2, so that a wrong line number is detected.
        let text = format!("\n{json}\n");
        read(&[Input::text("t.jsonl", text)]).next().unwrap()
    }

    fn text(json: &'static str) -> (String, String, String) {
        match parse(json).unwrap().content {
            Content::Text { prompt, answers } => (prompt, answers[0].clone(), answers[1].clone()),
            Content::Chat { .. } => panic!("strings"),
        }
    }

    fn chat(json: &'static str) -> [Vec<String>; 3] {
        match parse(json).unwrap().content {
            Content::Chat { prompt, answers, .. } => [&prompt, &answers[0], &answers[1]]
                .map(|messages| messages.iter().map(|m| format!("{}:{}", m.role(), m.content())).collect()),
            Content::Text { .. } => panic!("conversations"),
        }
    }

    #[track_caller]
    fn refused(json: &'static str, parts: &[&str]) {
        let message = parse(json).unwrap_err().to_string();
        assert!(message.starts_with("t.jsonl:2: "), "{message}");
        for part in parts {
            assert!(message.contains(part), "expected {part:?} in: {message}");
        }
    }

    #[test]
    fn strings_with_a_prompt_and_columns_of_no_interest() {
        let json = r#"{"id": 3, "prompt": "a", "chosen": "b", "rejected": "c", "prompt_id": "x", "score_chosen": 9}"#;
        assert_eq!(text(json), ("a".into(), "b".into(), "c".into()));
        assert_eq!(parse(json).unwrap().kind, Kind::PAIR);
        assert_eq!(text(r#"{"prompt": "", "chosen": "b", "rejected": "c"}"#).0, "");
    }

    /// Expected values: `trl.extract_prompt` of TRL 1.16.
    #[test]
    fn strings_without_a_prompt_share_their_beginning() {
        let expect = |json, [prompt, chosen, rejected]: [&str; 3]| {
            assert_eq!(text(json), (prompt.into(), chosen.into(), rejected.into()));
        };
        expect(r#"{"chosen": "Q: é A", "rejected": "Q: é B"}"#, ["Q: é", " A", " B"]);
        expect(r#"{"chosen": "The lamp.", "rejected": "The ladder."}"#, ["The la", "mp.", "dder."]);
        expect(r#"{"chosen": "It rains", "rejected": "It rains now"}"#, ["It rain", "s", "s now"]);
        refused(r#"{"chosen": "Paris", "rejected": "London"}"#, &["missing `prompt`", "Paris", "London"]);
    }

    #[test]
    fn a_misspelt_field_is_named() {
        refused(r#"{"prompt": "a", "chosen": "b", "reject": "c"}"#, &["missing `rejected`; found `reject`"]);
        refused(
            r#"{"promt": "a", "chosen": "x b", "rejected": "x c"}"#,
            &["missing `prompt`; found `promt`"],
        );
        refused(
            r#"{"question": "a", "answer": "b"}"#,
            &["missing `chosen`; found `question`, `answer`", "Every pair"],
        );
        refused("{}", &["missing `chosen`", "no fields"]);
        assert_eq!(text(r#"{"prompt_id": "7", "chosen": "x b", "rejected": "x c"}"#).0, "x");
    }

    #[test]
    fn wrong_types_are_named_with_their_value() {
        refused("[1]", &["must be a JSON object", "a list ([1])"]);
        refused(r#"{"prompt": "a", "chosen": 3, "rejected": "c"}"#, &["chosen must be", "a number (3)"]);
        refused(r#"{"prompt": "a", "chosen": "b", "rejected": null}"#, &["rejected must be", "found null"]);
        refused(
            r#"{"prompt": 1, "chosen": "b", "rejected": "c"}"#,
            &["prompt must be a string", "a number (1)"],
        );
        refused(r#"{"prompt": null, "chosen": "b", "rejected": "c"}"#, &["found null", "leave it out"]);
        refused(
            r#"{"prompt": "a", "chosen": "b", "rejected": [{"role": "assistant", "content": "c"}]}"#,
            &["chosen is a string (\"b\") but rejected is a list", "both"],
        );
        refused(
            r#"{"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"}"#,
            &["prompt must be a string where chosen and rejected are", "a list"],
        );
    }

    #[test]
    fn empty_and_equal_answers_are_refused() {
        refused(r#"{"prompt": "a", "chosen": "b", "rejected": ""}"#, &["rejected is empty", "two non-empty"]);
        refused(r#"{"prompt": "a", "chosen": "", "rejected": "c"}"#, &["chosen is empty"]);
        refused(
            r#"{"prompt": "a", "chosen": "same", "rejected": "same"}"#,
            &["are equal (same)", "remove it"],
        );
        let conversation = r#"{"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "a"}]}"#;
        refused(conversation, &["are equal (a)"]);
        let silent = r#"{"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": ""}],
                         "rejected": [{"role": "assistant", "content": "c"}]}"#;
        refused(silent.replace('\n', " ").leak(), &["chosen is empty"]);
    }

    #[test]
    fn labels_lie_between_0_and_1() {
        let label = |value: &str| {
            parse(format!(r#"{{"prompt": "a", "chosen": "b", "rejected": "c", "label": {value}}}"#).leak())
        };
        for (value, expected) in [("0.25", 0.25), ("1", 1.0), ("0", 0.0), ("null", 1.0)] {
            assert_eq!(label(value).unwrap().kind, Kind::Pair { label: expected });
        }
        for value in ["1.5", "-0.1", "\"1\"", "true", "1e400"] {
            let message = label(value).unwrap_err().to_string();
            assert!(
                message.contains("label must be") || message.contains("number out of range"),
                "{message}"
            );
        }
        let message = label("NaN").unwrap_err().to_string();
        assert!(message.contains("label must be") && message.contains("NaN"), "{message}");
        assert!(label("1.5").unwrap_err().to_string().contains("1.5"));
    }

    #[test]
    fn conversations_with_and_without_a_prompt() {
        let explicit = r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "b"}], "rejected": [{"role": "assistant", "content": "c"}]}"#;
        let expected = [vec!["user:q"], vec!["assistant:b"], vec!["assistant:c"]];
        assert_eq!(chat(explicit), expected);
        let implicit = r#"{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "c"}]}"#;
        assert_eq!(chat(implicit), expected);
        // UltraFeedback's layout: the question is repeated as a string.
        let with_string = implicit.replacen('{', r#"{"prompt": "q", "#, 1);
        assert_eq!(chat(with_string.leak()), expected);
        // One conversation is a prefix of the other: its last message stays with the answers.
        let longer = r#"{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "d"}]}"#;
        assert_eq!(chat(longer)[1], ["assistant:b"]);
        assert_eq!(chat(longer)[2], ["assistant:b", "user:d"]);
    }

    #[test]
    fn broken_conversations_name_the_message() {
        let prompt = |prompt: &str| -> &'static str {
            format!(
                r#"{{"prompt": {prompt}, "chosen": [{{"role": "assistant", "content": "b"}}], "rejected": [{{"role": "assistant", "content": "c"}}]}}"#
            )
            .leak()
        };
        refused(prompt("[]"), &["prompt is an empty list"]);
        refused(prompt(r#"["hi"]"#), &["prompt[0] must be a message", "a string (\"hi\")"]);
        refused(prompt(r#"[{"content": "a"}]"#), &["prompt[0] has no `role`"]);
        refused(
            prompt(r#"[{"role": "user", "contents": "a"}]"#),
            &["prompt[0] has no `content`; found `contents`"],
        );
        refused(
            prompt(r#"[{"role": "user", "content": 5}]"#),
            &["prompt[0].content must be a string", "a number (5)"],
        );
        refused(prompt(r#"[{"role": "user", "content": null}]"#), &["prompt[0].content", "null"]);
        refused(prompt(r#"[{"role": "", "content": "a"}]"#), &["prompt[0].role is empty"]);
        refused(prompt("\"a\""), &["prompt is a string (\"a\")", "make prompt a list"]);
        refused(prompt("7"), &["prompt must be a list of messages", "a number (7)"]);
        let repeated = r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "c"}]}"#;
        refused(repeated, &["repeat the messages of prompt"]);
        let strangers = r#"{"chosen": [{"role": "user", "content": "x"}], "rejected": [{"role": "user", "content": "y"}]}"#;
        refused(strangers, &["missing `prompt`", "no first message in common"]);
    }

    #[test]
    fn tools_and_template_arguments_are_kept() {
        let with = |extra: &str| -> &'static str {
            format!(
                r#"{{{extra}, "prompt": [{{"role": "user", "content": "q"}}], "chosen": [{{"role": "assistant", "tool_calls": [{{"name": "f"}}]}}], "rejected": [{{"role": "assistant", "content": "c"}}]}}"#
            )
            .leak()
        };
        let parts = |json| match parse(json).unwrap().content {
            Content::Chat { tools, kwargs, .. } => (tools, kwargs),
            Content::Text { .. } => panic!("conversations"),
        };
        let (tools, kwargs) = parts(with(
            r#""tools": "[{\"name\": \"f\"}]", "chat_template_kwargs": {"enable_thinking": false}"#,
        ));
        assert_eq!(tools, Some(serde_json::json!([{"name": "f"}])));
        assert_eq!(kwargs.unwrap()["enable_thinking"], false);
        assert_eq!(parts(with(r#""tools": null"#)), (None, None));
        refused(with(r#""tools": "f""#), &["tools must be a list", "a string (\"f\")"]);
        refused(with(r#""chat_template_kwargs": 1"#), &["chat_template_kwargs must be an object"]);
    }

    #[test]
    fn a_bad_record_does_not_hide_the_next() {
        let text = "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"b\"}\nnonsense\n{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}";
        let inputs = [Input::text("t", text)];
        assert_eq!(read(&inputs).map(|r| r.is_ok()).collect::<Vec<_>>(), [false, false, true]);
        assert!(load(&inputs).unwrap_err().to_string().starts_with("t:1: "));
        assert!(load(&[Input::text("t", "\n")]).unwrap_err().to_string().contains("no records"));
    }

    #[test]
    fn long_values_are_shortened() {
        let long: &'static str =
            format!(r#"{{"prompt": "a", "chosen": "{0}", "rejected": "{0}"}}"#, "é".repeat(500)).leak();
        let message = parse(long).unwrap_err().to_string();
        assert!(message.contains('…') && message.chars().count() < 200, "{message}");
    }
}
