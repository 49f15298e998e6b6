//! Conversations of a record: the messages and the end of the prompt.

use serde_json::{Map, Value as Json};

use super::fields::{Fields, described};
use super::speakers;
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
        self.content().trim().is_empty() && !self.calls_tools()
    }

    /// Whether the content, or one of its parts, contains `text`.
    pub(super) fn says(&self, text: &str) -> bool {
        match self.0.get("content") {
            Some(Json::Array(parts)) => {
                let mut texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
                texts.any(|part| part.contains(text))
            }
            _ => self.content().contains(text),
        }
    }

    /// Whether an answer can end with this message. Only the chat template knows all roles of the model, so this is false
    /// just for those that are certainly not the model's.
    pub(super) fn is_answer(&self) -> bool {
        !["user", "human", "system", "developer", "tool", "observation"].contains(&self.role())
    }

    /// Returns the message with the arguments of its calls as objects, where they are a text with a JSON object: OpenAI's
    /// form, while chat templates read objects.
    pub(super) fn with_read_arguments(mut self) -> Self {
        let calls = self.0.get_mut("tool_calls").and_then(Json::as_array_mut);
        for call in calls.into_iter().flatten() {
            let arguments = call.get_mut("function").and_then(|function| function.get_mut("arguments"));
            if let Some(arguments) = arguments {
                speakers::read_arguments(arguments);
            }
        }
        self
    }

    /// Whether the message calls tools.
    pub(super) fn calls_tools(&self) -> bool {
        self.0.get("tool_calls").and_then(Json::as_array).is_some_and(|calls| !calls.is_empty())
    }
}

/// Reads a list of messages, named `field` in errors. Messages of `from` and `value` become `role` and `content`.
pub(super) fn messages(field: &str, list: &[Json]) -> Result<Vec<Message>, String> {
    if list.is_empty() {
        return Err(format!("{field} is an empty list; it needs at least one message {{role, content}}"));
    }
    list.iter().enumerate().map(|(index, json)| message(&format!("{field}[{index}]"), json)).collect()
}

/// Reads the message at `place`.
pub(super) fn message(place: &str, json: &Json) -> Result<Message, String> {
    let Json::Object(fields) = json else {
        return Err(format!("{place} must be a message {{role, content}}, found {}", described(json)));
    };
    if let (false, Some(from)) = (fields.contains_key("role"), fields.get("from")) {
        return speakers::message(place, from, fields).map(Message);
    }
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
        // LLaMA-Factory writes an empty text where there are none.
        Some(Json::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Json::String(text)) => match serde_json::from_str(&text) {
            Ok(list @ Json::Array(_)) => Ok(Some(list)),
            _ => Err(wrong(&text.into())),
        },
        Some(list @ Json::Array(_)) => Ok(Some(list)),
        Some(other) => Err(wrong(&other)),
    }
}

/// Reads `chat_template_kwargs`, the variables of the chat template.
pub(super) fn kwargs(fields: &mut Fields) -> Result<Option<Fields>, String> {
    match fields.remove("chat_template_kwargs") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Object(map)) => Ok(Some(map)),
        Some(Json::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Json::String(text)) => match serde_json::from_str(&text) {
            Ok(Json::Object(map)) => Ok(Some(map)),
            _ => Err(format!(
                "chat_template_kwargs must be an object, or a text with one in JSON, found {}",
                described(&text.into())
            )),
        },
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
