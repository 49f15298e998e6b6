//! Conversations of a record: the messages and the end of the prompt.

use serde_json::{Map, Value as Json};

use super::fields::{Fields, MEDIA, described, is_empty};
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
    let media = |(name, value): &(&String, &Json)| {
        MEDIA.contains(&name.as_str()) && !is_empty(value) && **value != Json::Bool(false)
    };
    if let Some((name, _)) = fields.iter().find(media) {
        return Err(format!(
            "{place}.{name} is not read: models of texts have no place for it; remove the row, or the field if the text does \
             without it"
        ));
    }
    if let (false, Some(from)) = (fields.contains_key("role"), fields.get("from")) {
        return speakers::message(place, from, fields).map(Message);
    }
    let mut fields = fields.clone();
    speakers::read_function_call(place, &mut fields)?;
    let message = Message(fields);
    check(place, &message)?;
    Ok(message)
}

/// Checks role and content of the message at `place`.
fn check(place: &str, message: &Message) -> Result<(), String> {
    let fields = message.fields();
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
    speakers::refuse_other_name(place, message.role())
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

    #[test]
    fn what_is_not_text_is_refused_in_messages_too() {
        let with =
            |images: Json| message("chosen[0]", &json!({"role": "user", "content": "a", "images": images}));
        assert!(with(json!(["x.png"])).unwrap_err().starts_with("chosen[0].images is not read"));
        assert!(with(json!([])).is_ok() && with(json!(null)).is_ok());
        let sharegpt = message("c[1]", &json!({"from": "human", "value": "a", "audio": "x.wav"}));
        assert!(sharegpt.unwrap_err().starts_with("c[1].audio is not read"));
    }

    #[test]
    fn a_role_under_the_name_of_another_format_is_refused() {
        let of = |role: &str| message("m[1]", &json!({"role": role, "content": "a"}));
        for (role, right) in [
            ("human", "user"),
            ("gpt", "assistant"),
            ("bot", "assistant"),
            ("Assistant", "assistant"),
            ("SYSTEM", "system"),
            (" user", "user"),
            ("ChatGPT", "assistant"),
            ("model", "assistant"),
        ] {
            let error = of(role).unwrap_err();
            assert!(error.contains(&format!("m[1].role is {role:?}")), "{error}");
            assert!(error.ends_with(&format!("write {right}")), "{error}");
        }
        for role in ["user", "tool", "developer", "ipython", "documents", "environment", "narrator"] {
            assert!(of(role).is_ok(), "{role}");
        }
    }

    #[test]
    fn the_older_form_of_a_call_becomes_tool_calls() {
        let call = json!({"name": "f", "arguments": "{\"x\": 1}"});
        let old = |content: Json, call: &Json| {
            message("m[0]", &json!({"role": "assistant", "content": content, "function_call": call}))
        };
        let found = old(json!(null), &call).unwrap();
        let calls = json!([{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]);
        assert_eq!(found.fields()["tool_calls"], calls);
        assert!(found.calls_tools() && !found.fields().contains_key("function_call"));
        for nothing in [json!(null), json!({}), json!("")] {
            assert!(!old(json!("a"), &nothing).unwrap().calls_tools(), "{nothing}");
        }
        for (wrong, part) in [
            (json!({"name": "f"}), "m[0].function_call must be an object {name, arguments}, found an object"),
            (json!("f(1)"), "found a string (\"f(1)\")"),
        ] {
            assert!(old(json!("a"), &wrong).unwrap_err().contains(part), "{wrong}");
        }
        let both = json!({"role": "assistant", "content": "", "function_call": call, "tool_calls": calls});
        assert!(message("m[0]", &both).unwrap_err().contains("both `function_call` and `tool_calls`"));
    }
}
