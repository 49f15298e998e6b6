//! TRL's records that are not pairs: a judged answer, a text to imitate, and our ranked lists.

use serde_json::Value as Json;

use super::super::content::Content;
use super::super::example::Kind;
use super::super::fields::{Fields, described, first, given, shortened};
use super::super::messages::{Message, messages};
use super::draft::{Draft, Named, blank, chat, refuse_repeated, text, turns};
use super::judgements::judgement;

/// `prompt`, `completion` and `label` (true or false), as in `KTOTrainer`.
pub(super) fn judged(fields: &mut Fields) -> Result<Draft, String> {
    let desirable = desirable(fields)?;
    Ok(Draft::new(Kind::Judged { desirable }, completion_content(fields)?))
}

/// `prompt` and `completion`, as in `SFTTrainer`: only the completion is scored.
pub(super) fn completion(fields: &mut Fields) -> Result<Draft, String> {
    Ok(Draft::new(Kind::Text, completion_content(fields)?))
}

fn completion_content(fields: &mut Fields) -> Result<Content, String> {
    let completion = fields.get("completion").cloned().unwrap_or_default();
    behind_prompt(fields, &[("completion".into(), &completion)])
}

/// Reads TRL's `label` of a judged answer.
fn desirable(fields: &Fields) -> Result<bool, String> {
    judgement("label", fields.get("label"))
}

/// `text`: every token except the first is scored.
pub(super) fn whole_text(fields: &mut Fields) -> Result<Draft, String> {
    let value = fields.get("text").cloned().unwrap_or_default();
    let text = text("text", &value)?;
    if text.trim().is_empty() {
        return Err("text is empty; there is nothing to imitate, remove it".into());
    }
    Ok(Draft::new(Kind::Text, Content::Text { prompt: String::new(), answers: vec![text.into()] }))
}

/// `messages`: a conversation to imitate as a whole; with a `label`, its last turn is judged.
pub(super) fn whole_messages(fields: &mut Fields) -> Result<Draft, String> {
    conversation("messages", "label", fields)
}

/// Reads the conversation in the column `name`. Its last turn is judged if one of the columns `labels` is given.
pub(super) fn conversation(name: &str, labels: &str, fields: &mut Fields) -> Result<Draft, String> {
    let list = match fields.get(name) {
        Some(Json::Array(list)) => messages(name, list)?,
        Some(Json::String(value)) => {
            super::encoded::refuse_encoded(name, value)?;
            return Err(format!(
                "{name} must be a list of messages, found {}",
                described(&value.as_str().into())
            ));
        }
        other => {
            let found = other.map_or_else(|| "nothing".into(), described);
            return Err(format!("{name} must be a list of messages, found {found}"));
        }
    };
    match first(fields, labels) {
        Some((label, value)) => {
            let desirable = judgement(label, Some(value))?;
            let (prompt, answer) = last_turn(name, list)?;
            let content = chat(prompt, vec![(format!("the end of {name}"), answer)], fields)?;
            Ok(Draft::new(Kind::Judged { desirable }, content))
        }
        None => Ok(Draft::new(Kind::Text, chat(Vec::new(), vec![(name.into(), list)], fields)?)),
    }
}

/// Splits a conversation before its last message.
pub(super) fn last_turn(name: &str, mut list: Vec<Message>) -> Result<(Vec<Message>, Vec<Message>), String> {
    let last = list.split_off(list.len().saturating_sub(1));
    if list.is_empty() {
        return Err(format!("{name} has one message; an answer stands behind a message of the user"));
    }
    Ok((list, last))
}

/// `prompt` and `completions`, from the best to the worst.
pub(super) fn ranked(fields: &mut Fields) -> Result<Draft, String> {
    let completions = fields.get("completions").cloned().unwrap_or_default();
    let Json::Array(list) = &completions else {
        return Err(format!(
            "completions must be a list, from the best to the worst, found {}",
            described(&completions)
        ));
    };
    if list.len() < 2 {
        return Err(format!(
            "completions has {} entries; a ranked list needs two or more, from the best to the worst",
            list.len()
        ));
    }
    let named: Vec<_> =
        list.iter().enumerate().map(|(i, answer)| (format!("completions[{i}]"), answer)).collect();
    if let Some(object) =
        list.iter().find(|answer| answer.get("response").is_some() || answer.get("text").is_some())
    {
        return Err(format!(
            "completions[0] must be a string or a list of messages, found {}; completions with their scores need \
             `instruction` (the format ultrafeedback)",
            described(object)
        ));
    }
    distinct(&named)?;
    Ok(Draft::new(Kind::Ranked, behind_prompt(fields, &named)?))
}

/// Refuses two equal answers of a list.
pub(super) fn distinct<T: PartialEq + std::fmt::Display>(answers: &[Named<T>]) -> Result<(), String> {
    for (i, (worse, text)) in answers.iter().enumerate() {
        if let Some((better, _)) = answers[..i].iter().find(|(_, better)| better == text) {
            return Err(format!(
                "{better} and {worse} are equal ({}); one answer has one place, remove it",
                shortened(&text.to_string())
            ));
        }
    }
    Ok(())
}

/// Builds the content from the record's `prompt` and the named answers: all strings, or all lists of messages.
pub(super) fn behind_prompt(fields: &mut Fields, answers: &[Named<&Json>]) -> Result<Content, String> {
    match given(fields, "prompt").cloned() {
        Some(ref prompt @ Json::String(_)) => {
            let prompt = text("prompt", prompt)?;
            let read = |(name, answer): &Named<&Json>| match answer {
                Json::String(_) => text(name, answer).map(String::from),
                other => Err(format!("{name} must be a string where prompt is, found {}", described(other))),
            };
            let texts = answers.iter().map(read).collect::<Result<Vec<_>, _>>()?;
            match answers.iter().zip(&texts).find(|(_, text)| text.trim().is_empty()) {
                Some(((name, _), text)) => Err(blank(name, text)),
                None => {
                    let named: Vec<Named<&str>> = answers
                        .iter()
                        .zip(&texts)
                        .map(|((name, _), text)| (name.clone(), text.as_str()))
                        .collect();
                    refuse_repeated(prompt, &named)?;
                    Ok(Content::Text { prompt: prompt.into(), answers: texts })
                }
            }
        }
        Some(Json::Array(list)) => {
            let prompt = messages("prompt", &list)?;
            let read = |(name, answer): &Named<&Json>| behind_messages(name, answer, &prompt);
            let answers = answers.iter().map(read).collect::<Result<_, _>>()?;
            chat(prompt, answers, fields)
        }
        Some(other) => Err(format!("prompt must be a string or a list of messages, found {}", described(&other))),
        None => {
            Err("missing `prompt`; a completion stands behind a prompt, and a text of its own is `text` or `messages`".into())
        }
    }
}

fn behind_messages(name: &str, answer: &Json, prompt: &[Message]) -> Result<Named<Vec<Message>>, String> {
    if !answer.is_array() && !answer.is_object() {
        return Err(format!(
            "{name} must be a list of messages where prompt is, found {}",
            described(answer)
        ));
    }
    let turns = turns(name, answer)?;
    if turns.starts_with(prompt) {
        return Err(format!("{name} repeats the messages of prompt; leave prompt out of it"));
    }
    Ok((name.into(), turns))
}

#[cfg(test)]
mod tests {
    use super::super::super::records::{Record, read};
    use super::super::super::source::Input;
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
        let again = r#""prompt": "q", "text": "<user>q</user>\n<assistant>r</assistant>""#;
        assert_eq!(parsed(&format!(r#"{{"messages": {messages}, {again}}}"#)), whole);
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
        refused(r#"{"prompt": "a", "completion": "b", "label": 2}"#, &["label must be true", "a number (2)"]);
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
            &["completions[0] and completions[2] are equal (\"b\"); one"],
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
