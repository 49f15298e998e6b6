//! Records that are not pairs: a judged answer, a text to imitate or a ranked list. The columns decide which one.
//!
//! | columns | record |
//! |---|---|
//! | `prompt`, `completion`, `label` (true or false) | a judged answer, as in TRL's `KTOTrainer` |
//! | `prompt`, `completion` | a text to imitate after its prompt, as in `SFTTrainer`: only the completion is scored |
//! | `messages`, or `text` | a text to imitate as a whole: every token except the first is scored |
//! | `prompt`, `completions` | a ranked list, from the best to the worst |

use serde_json::Value as Json;

use super::content::Content;
use super::example::Kind;
use super::fields::{Fields, described, shortened};
use super::messages::{Message, kwargs, messages, tools};

/// Parses the record if its columns are those of a kind in this module, and returns `None` otherwise.
pub(super) fn parse(fields: &mut Fields) -> Result<Option<(Kind, Content)>, String> {
    let judged = fields.contains_key("label");
    if let Some(completions) = fields.get("completions") {
        let content = ranked(fields, completions)?;
        return Ok(Some((Kind::Ranked, with_template(content, fields)?)));
    }
    if let Some(completion) = fields.get("completion") {
        let kind = if judged { Kind::Judged { desirable: desirable(fields)? } } else { Kind::Text };
        let content = behind_prompt(fields, &[("completion".into(), completion)])?;
        return Ok(Some((kind, with_template(content, fields)?)));
    }
    let content = match (fields.get("messages"), fields.get("text")) {
        (Some(Json::Array(list)), _) => chat(Vec::new(), vec![messages("messages", list)?]),
        (Some(other), _) => {
            return Err(format!("messages must be a list of messages, found {}", described(other)));
        }
        (None, Some(Json::String(text))) if text.is_empty() => {
            return Err("text is empty; there is nothing to imitate, remove it".into());
        }
        (None, Some(Json::String(text))) => {
            Content::Text { prompt: String::new(), answers: vec![text.clone()] }
        }
        (None, Some(other)) => return Err(format!("text must be a string, found {}", described(other))),
        (None, None) => return Ok(None),
    };
    Ok(Some((Kind::Text, with_template(content, fields)?)))
}

/// Reads TRL's `label` of a judged answer.
fn desirable(fields: &Fields) -> Result<bool, String> {
    match fields.get("label") {
        Some(Json::Bool(desirable)) => Ok(*desirable),
        other => Err(format!(
            "label must be true (the completion is desirable) or false, found {}; leave it out of texts to imitate",
            other.map_or_else(|| "nothing".into(), described)
        )),
    }
}

fn ranked(fields: &Fields, completions: &Json) -> Result<Content, String> {
    let Json::Array(list) = completions else {
        return Err(format!(
            "completions must be a list, from the best to the worst, found {}",
            described(completions)
        ));
    };
    if list.len() < 2 {
        return Err(format!(
            "completions has {} entries; a ranked list needs two or more, from the best to the worst",
            list.len()
        ));
    }
    for (i, worse) in list.iter().enumerate() {
        if let Some(better) = list[..i].iter().position(|better| better == worse) {
            return Err(format!(
                "completions[{better}] and completions[{i}] are equal ({}); one answer has one place, remove it",
                shortened(&worse.to_string())
            ));
        }
    }
    let named: Vec<_> =
        list.iter().enumerate().map(|(i, answer)| (format!("completions[{i}]"), answer)).collect();
    behind_prompt(fields, &named)
}

/// Builds the content from the record's `prompt` and the named answers: all strings, or all lists of messages.
fn behind_prompt(fields: &Fields, answers: &[(String, &Json)]) -> Result<Content, String> {
    match fields.get("prompt") {
        Some(Json::String(prompt)) => {
            let text = |(name, answer): &(String, &Json)| match answer {
                Json::String(text) if text.is_empty() => Err(empty(name)),
                Json::String(text) => Ok(text.clone()),
                other => Err(format!("{name} must be a string where prompt is, found {}", described(other))),
            };
            let answers = answers.iter().map(text).collect::<Result<_, _>>()?;
            Ok(Content::Text { prompt: prompt.clone(), answers })
        }
        Some(Json::Array(list)) => {
            let prompt = messages("prompt", list)?;
            let turns = |(name, answer): &(String, &Json)| turns(name, answer, &prompt);
            let answers = answers.iter().map(turns).collect::<Result<_, _>>()?;
            Ok(chat(prompt, answers))
        }
        Some(other) => Err(format!("prompt must be a string or a list of messages, found {}", described(other))),
        None => {
            Err("missing `prompt`; a completion stands behind a prompt, and a text of its own is `text` or `messages`".into())
        }
    }
}

fn turns(name: &str, answer: &Json, prompt: &[Message]) -> Result<Vec<Message>, String> {
    let Json::Array(list) = answer else {
        return Err(format!(
            "{name} must be a list of messages where prompt is, found {}",
            described(answer)
        ));
    };
    let turns = messages(name, list)?;
    if turns.starts_with(prompt) {
        return Err(format!("{name} repeats the messages of prompt; leave prompt out of it"));
    }
    if turns.iter().all(Message::is_silent) { Err(empty(name)) } else { Ok(turns) }
}

fn empty(name: &str) -> String {
    format!("{name} is empty; a record needs a completion to score")
}

fn chat(prompt: Vec<Message>, answers: Vec<Vec<Message>>) -> Content {
    Content::Chat { prompt, answers, tools: None, kwargs: None }
}

/// Adds the record's `tools` and `chat_template_kwargs` to a conversation.
fn with_template(content: Content, fields: &mut Fields) -> Result<Content, String> {
    Ok(match content {
        Content::Chat { prompt, answers, .. } => {
            Content::Chat { prompt, answers, tools: tools(fields)?, kwargs: kwargs(fields)? }
        }
        text @ Content::Text { .. } => text,
    })
}

#[cfg(test)]
mod tests {
    use super::super::records::{Record, read};
    use super::super::source::Input;
    use super::*;
    use crate::error::Result;

    fn record(json: &str) -> Result<Record> {
        read(&[Input::text("t.jsonl", format!("\n{json}\n"))]).next().unwrap()
    }

    #[track_caller]
    fn parsed(json: &str) -> (Kind, String, Vec<String>) {
        let shown = |messages: &[Message]| {
            messages.iter().map(|m| format!("{}:{};", m.role(), m.content())).collect::<String>()
        };
        let Record { kind, content, .. } = record(json).unwrap();
        match content {
            Content::Text { prompt, answers } => (kind, prompt, answers),
            Content::Chat { prompt, answers, .. } => {
                (kind, shown(&prompt), answers.iter().map(|answer| shown(answer)).collect())
            }
        }
    }

    #[track_caller]
    fn refused(json: &str, parts: &[&str]) {
        let message = record(json).unwrap_err().to_string();
        assert!(message.starts_with("t.jsonl:2: "), "{message}");
        for part in parts {
            assert!(message.contains(part), "expected {part:?} in: {message}");
        }
    }

    #[test]
    fn columns_tell_the_kind() {
        let judged = |desirable| (Kind::Judged { desirable }, "a".into(), vec!["b".into()]);
        assert_eq!(parsed(r#"{"prompt": "a", "completion": "b", "label": true}"#), judged(true));
        assert_eq!(parsed(r#"{"prompt": "a", "completion": "b", "label": false}"#), judged(false));
        let text = |prompt: &str, text: &str| (Kind::Text, prompt.into(), vec![text.into()]);
        assert_eq!(parsed(r#"{"prompt": "a", "completion": "b"}"#), text("a", "b"));
        assert_eq!(parsed(r#"{"text": "a b", "label": 3}"#), text("", "a b"));
        let messages = r#"[{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]"#;
        let whole = text("", "user:q;assistant:r;");
        assert_eq!(parsed(&format!(r#"{{"messages": {messages}, "prompt": "q", "text": "x"}}"#)), whole);
        let ranked = parsed(r#"{"prompt": "a", "completions": ["b", "c", "d"]}"#);
        assert_eq!(ranked, (Kind::Ranked, "a".into(), ["b", "c", "d"].map(String::from).into()));
        // Columns in addition to those of a pair are ignored.
        let pair = r#"{"prompt": "a", "chosen": "b", "rejected": "c", "messages": [], "completion": 3}"#;
        assert_eq!(record(pair).unwrap().kind, Kind::PAIR);
    }

    #[test]
    fn conversations_keep_what_their_template_reads() {
        let json = r#"{"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "r"}],
            "label": true, "tools": [{"name": "f"}]}"#
            .replace('\n', " ");
        assert_eq!(parsed(&json).2, ["assistant:r;"]);
        match record(&json).unwrap().content {
            Content::Chat { tools, .. } => assert_eq!(tools, Some(serde_json::json!([{"name": "f"}]))),
            Content::Text { .. } => panic!("a conversation"),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused(r#"{"prompt": "a", "completion": "b", "label": 1}"#, &["label must be true", "a number (1)"]);
        refused(r#"{"prompt": "a", "completion": "b", "label": null}"#, &["found null"]);
        refused(r#"{"completion": "b"}"#, &["missing `prompt`", "`text`"]);
        refused(r#"{"prompt": "a", "completion": ""}"#, &["completion is empty"]);
        refused(r#"{"prompt": "a", "completion": ["b"]}"#, &["completion must be a string", "a list"]);
        refused(r#"{"prompt": 3, "completion": "b"}"#, &["prompt must be", "a number (3)"]);
        refused(r#"{"text": ""}"#, &["text is empty"]);
        refused(r#"{"text": 3}"#, &["text must be a string", "a number (3)"]);
        refused(r#"{"messages": "a"}"#, &["messages must be a list", "a string"]);
        refused(r#"{"messages": []}"#, &["messages is an empty list"]);
        refused(r#"{"prompt": "a", "completions": "b"}"#, &["completions must be a list"]);
        refused(r#"{"prompt": "a", "completions": ["b"]}"#, &["completions has 1 entries", "two or more"]);
        refused(
            r#"{"prompt": "a", "completions": ["b", "c", "b"]}"#,
            &["completions[0] and completions[2] are equal"],
        );
        refused(r#"{"prompt": "a", "completions": ["b", 3]}"#, &["completions[1] must be a string"]);
        let turn = r#"[{"role": "user", "content": "q"}]"#;
        refused(&format!(r#"{{"prompt": {turn}, "completion": {turn}}}"#), &["completion repeats"]);
        refused(&format!(r#"{{"prompt": {turn}, "completion": "r"}}"#), &["completion must be a list"]);
        let silent = r#"[{"role": "assistant", "content": ""}]"#;
        refused(&format!(r#"{{"prompt": {turn}, "completion": {silent}}}"#), &["completion is empty"]);
        refused(r#"{"prompt": "a", "completon": "b"}"#, &["found `completon`", "`completion`"]);
        refused(r#"{"prompt": "a", "answer": "b"}"#, &["`completions`", "`messages`"]);
    }
}
