//! Conversations that were written as text: JSON or the `repr` of a Python list.

use serde_json::Value as Json;

/// The two pairs of fields that a message has.
const FIELDS: [[&str; 2]; 2] = [["role", "content"], ["from", "value"]];

/// Refuses a text that is a list of messages in JSON or in Python's notation. Trained on as prose, it would teach the
/// notation.
pub(in crate::data) fn refuse_encoded(name: &str, text: &str) -> Result<(), String> {
    let start = text.trim_start();
    if !start.starts_with(['[', '{']) {
        return Ok(());
    }
    if let Ok(value) = serde_json::from_str::<Json>(start) {
        let Some(what) = messages(&value) else { return Ok(()) };
        return Err(format!("{name} is JSON text of {what}; give {} instead of the text", given_as(&value)));
    }
    if is_python(start) {
        return Err(format!(
            "{name} is a list of messages in Python's notation, as text; give the list as JSON instead of the text"
        ));
    }
    Ok(())
}

fn messages(value: &Json) -> Option<&'static str> {
    let is_message =
        |value: &Json| FIELDS.iter().any(|fields| fields.iter().all(|name| value.get(name).is_some()));
    match value {
        Json::Array(list) if !list.is_empty() && list.iter().all(is_message) => Some("a list of messages"),
        Json::Object(_) if is_message(value) => Some("a message"),
        _ => None,
    }
}

fn given_as(value: &Json) -> &'static str {
    if value.is_array() { "the list" } else { "a list with the message" }
}

/// Whether the text begins like `[{'role': ...` and names the other field too.
fn is_python(text: &str) -> bool {
    let start = text.trim_start_matches(['[', '{', ' ', '\n', '\t']);
    FIELDS.iter().any(|fields| {
        let quoted = |name: &str| ["'", "\""].map(|quote| format!("{quote}{name}{quote}:"));
        let begins = fields.iter().any(|name| quoted(name).iter().any(|key| start.starts_with(key.as_str())));
        begins && fields.iter().all(|name| quoted(name).iter().any(|key| text.contains(key.as_str())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_as_text_are_refused_and_other_json_is_not() {
        for (text, part) in [
            (
                r#"[{"role": "user", "content": "q"}]"#,
                "chosen is JSON text of a list of messages; give the list",
            ),
            (r#" [{"from": "human", "value": "q"}]"#, "chosen is JSON text of a list of messages"),
            (r#"{"role": "assistant", "content": "q"}"#, "chosen is JSON text of a message"),
            ("[{'role': 'user', 'content': \"it's\"}]", "in Python's notation"),
            (
                "[{'content': 'q', 'role': 'user'}\n {'content': 'a', 'role': 'assistant'}]",
                "in Python's notation",
            ),
            ("{'from': 'gpt', 'value': 'a'}", "in Python's notation"),
        ] {
            let error = refuse_encoded("chosen", text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        for text in [
            "[1, 2]",
            "[]",
            "{}",
            r#"[{"role": "admin"}]"#,
            r#"[{"value": 3}]"#,
            "{'role': 3}",
            "[see below] a 'role': b 'content':",
            "{'a': 'role', 'content': 3}",
        ] {
            assert_eq!(refuse_encoded("chosen", text), Ok(()), "{text}");
        }
    }
}
