//! The fields of a record and how error messages display their values.

use serde_json::{Map, Value as Json};

/// The fields of a JSON object, in file order.
pub(super) type Fields = Map<String, Json>;

/// Describes the problem of two equal answers.
pub(super) fn equal(text: &str) -> String {
    format!(
        "chosen and rejected are equal ({}); a pair without a difference teaches nothing, remove it",
        shortened(text)
    )
}

/// Formats the type and value for an error message: `a number (3)`.
pub(super) fn described(value: &Json) -> String {
    let kind = match value {
        Json::Null => return "null".into(),
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    };
    format!("{kind} ({})", shortened(&value.to_string()))
}

/// Returns the first 60 characters.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((byte, _)) => format!("{}…", &text[..byte]),
        None => text.to_owned(),
    }
}
