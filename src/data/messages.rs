//! Conversations of a record: the messages and the end of the prompt.

use serde_json::{Map, Value as Json};

use super::fields::{Fields, described, equal};
use crate::error::nearest;

/// A chat message: `role`, `content` and any other fields a template may read.
#[derive(Clone, Debug, PartialEq)]
pub struct Message(Fields);

impl Message {
    /// Creates a message with the two fields `role` and `content`.
    pub fn new(role: &str, content: &str) -> Self {
        Self(Map::from_iter([("role".into(), role.into()), ("content".into(), content.into())]))
    }

    /// Creates a message from arbitrary fields. They are not checked, because only the template knows what it can read.
    pub fn from_fields(fields: Map<String, Json>) -> Self {
        Self(fields)
    }

    /// Returns all fields in their order.
    pub fn fields(&self) -> &Fields {
        &self.0
    }

    /// Returns the role of the speaker.
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Json::as_str).unwrap_or_default()
    }

    /// Returns the content: the first text if there are several, and an empty string for a message that only calls
    /// tools.
    pub fn content(&self) -> &str {
        match self.0.get("content") {
            Some(Json::String(text)) => text,
            Some(Json::Array(parts)) => {
                let mut texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
                texts.find(|text| !text.is_empty()).unwrap_or_default()
            }
            _ => "",
        }
    }

    /// Whether the message has neither text nor tool calls.
    pub(super) fn is_silent(&self) -> bool {
        self.content().is_empty() && !self.calls_tools()
    }

    fn calls_tools(&self) -> bool {
        self.0.get("tool_calls").and_then(Json::as_array).is_some_and(|calls| !calls.is_empty())
    }
}

type Conversation = (Vec<Message>, Vec<Message>, Vec<Message>);

/// Returns (prompt, chosen, rejected) of a conversational record.
pub(super) fn conversation(
    fields: &Fields,
    chosen: Vec<Message>,
    rejected: Vec<Message>,
) -> Result<Conversation, String> {
    if chosen == rejected {
        return Err(equal(chosen.last().map_or("", Message::content)));
    }
    let (prompt, chosen, rejected) = match fields.get("prompt") {
        Some(Json::Array(prompt)) => {
            let prompt = messages("prompt", prompt)?;
            if chosen.starts_with(&prompt) && rejected.starts_with(&prompt) {
                return Err(
                    "chosen and rejected repeat the messages of prompt; leave prompt out, or them".into()
                );
            }
            (prompt, chosen, rejected)
        }
        // Some data sets repeat the first question as a string next to the whole conversations.
        None | Some(Json::String(_)) => split_conversations(chosen, rejected),
        Some(other) => {
            return Err(format!(
                "prompt must be a list of messages where chosen and rejected are, found {}",
                described(other)
            ));
        }
    };
    if prompt.is_empty() {
        return Err(match fields.get("prompt") {
            Some(prompt) => format!(
                "prompt is {}, while chosen and rejected are lists of messages that begin differently; make prompt a list \
                 of messages too",
                described(prompt)
            ),
            None => {
                "missing `prompt`, and chosen and rejected have no first message in common that could be it"
                    .into()
            }
        });
    }
    for (name, answer) in [("chosen", &chosen), ("rejected", &rejected)] {
        if answer.iter().all(Message::is_silent) {
            return Err(format!("{name} is empty; every pair needs two non-empty completions"));
        }
    }
    Ok((prompt, chosen, rejected))
}

/// TRL's `extract_prompt` for conversations: the common leading messages. If one conversation is a prefix of the other,
/// its last message is left to the completions.
fn split_conversations(mut chosen: Vec<Message>, mut rejected: Vec<Message>) -> Conversation {
    let shorter = chosen.len().min(rejected.len());
    let common = chosen.iter().zip(&rejected).take_while(|(left, right)| left == right).count();
    let border = common.min(shorter.saturating_sub(1));
    let (rest_chosen, rest_rejected) = (chosen.split_off(border), rejected.split_off(border));
    (chosen, rest_chosen, rest_rejected)
}

pub(super) fn messages(field: &str, list: &[Json]) -> Result<Vec<Message>, String> {
    if list.is_empty() {
        return Err(format!("{field} is an empty list; it needs at least one message {{role, content}}"));
    }
    list.iter().enumerate().map(|(index, json)| message(&format!("{field}[{index}]"), json)).collect()
}

fn message(place: &str, json: &Json) -> Result<Message, String> {
    let Json::Object(fields) = json else {
        return Err(format!("{place} must be a message {{role, content}}, found {}", described(json)));
    };
    let message = Message(fields.clone());
    for name in ["role", "content"] {
        match fields.get(name) {
            Some(Json::String(_)) => {}
            Some(Json::Array(parts)) if name == "content" => text_parts(place, parts)?,
            None | Some(Json::Null) if name == "content" && message.calls_tools() => {}
            Some(other) => {
                return Err(format!(
                    "{place}.{name} must be a string{}, found {}",
                    if name == "content" { " or a list of text parts" } else { "" },
                    described(other)
                ));
            }
            None => {
                let remedy = nearest(name, fields.keys().map(String::as_str).filter(|key| *key != "role"))
                    .map_or_else(
                        || "every message has both".to_string(),
                        |near| format!("found `{near}`: rename it"),
                    );
                return Err(format!("{place} has no `{name}`; {remedy}"));
            }
        }
    }
    if message.role().is_empty() {
        return Err(format!(
            "{place}.role is empty; use user, assistant, system or what the chat template knows"
        ));
    }
    Ok(message)
}

/// Checks that all parts of a structured content are texts.
fn text_parts(place: &str, parts: &[Json]) -> Result<(), String> {
    for (index, part) in parts.iter().enumerate() {
        let kind = part.get("type").and_then(Json::as_str);
        match (kind, part.get("text")) {
            (Some("text"), Some(Json::String(_))) => {}
            (Some(other), _) if other != "text" => {
                return Err(format!(
                    "{place}.content[{index}] is of the type {other:?}; a model of texts reads text parts alone"
                ));
            }
            _ => {
                return Err(format!(
                    "{place}.content[{index}] must be {{\"type\": \"text\", \"text\": ...}}, found {}",
                    described(part)
                ));
            }
        }
    }
    Ok(())
}

/// Reads `tools`: a list, or a list encoded as a JSON string, as TRL accepts it.
pub(super) fn tools(fields: &mut Fields) -> Result<Option<Json>, String> {
    let wrong = |value: &Json| format!("tools must be a list of JSON schemas, found {}", described(value));
    match fields.remove("tools") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => match serde_json::from_str(&text) {
            Ok(list @ Json::Array(_)) => Ok(Some(list)),
            _ => Err(wrong(&text.into())),
        },
        Some(list @ Json::Array(_)) => Ok(Some(list)),
        Some(other) => Err(wrong(&other)),
    }
}

pub(super) fn kwargs(fields: &mut Fields) -> Result<Option<Fields>, String> {
    match fields.remove("chat_template_kwargs") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Object(map)) => Ok(Some(map)),
        Some(other) => Err(format!("chat_template_kwargs must be an object, found {}", described(&other))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(content: &Json) -> Result<Message, String> {
        message("chosen[0]", &json!({"role": "user", "content": content}))
    }

    #[test]
    fn content_is_a_text_or_a_list_of_texts() {
        let parts = json!([{"type": "text", "text": ""}, {"type": "text", "text": "b"}]);
        let found = read(&parts).unwrap();
        assert_eq!((found.content(), &found.fields()["content"]), ("b", &parts));
        assert_eq!(read(&json!("a")).unwrap().content(), "a");
        for (content, words) in [
            (json!([{"type": "image", "image": "x.png"}]), "chosen[0].content[0] is of the type \"image\""),
            (json!([{"type": "text"}]), "chosen[0].content[0] must be {\"type\": \"text\""),
            (json!(["a"]), "found a string (\"a\")"),
            (json!(3), "chosen[0].content must be a string or a list of text parts"),
        ] {
            let error = read(&content).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
