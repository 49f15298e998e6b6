//! The fields of a record and how error messages display their values.

use serde_json::{Map, Value as Json};

use super::format::stands_for;

/// Columns, and fields of messages, with what is not text.
pub(super) const MEDIA: [&str; 8] =
    ["image", "images", "video", "videos", "audio", "audios", "image_path", "image_url"];

/// The fields of a JSON object, in file order.
pub(super) type Fields = Map<String, Json>;

/// Returns the column `name` unless it is missing or null. Data sets that were joined have nulls in the columns of the
/// other parts.
pub(super) fn given<'a>(fields: &'a Fields, name: &str) -> Option<&'a Json> {
    fields.get(name).filter(|value| !value.is_null())
}

/// Returns the first of `names` (separated by `|`) that is given, with its value.
pub(super) fn first<'a, 'n>(fields: &'a Fields, names: &'n str) -> Option<(&'n str, &'a Json)> {
    names.split('|').find_map(|name| Some((name, given(fields, name)?)))
}

/// Describes the problem of two equal answers.
pub(super) fn equal(first: &str, second: &str, text: &str) -> String {
    format!(
        "{first} and {second} are equal ({}); a pair without a difference teaches nothing, remove it, or leave such rows out with data.on_error: skip",
        shortened(text)
    )
}

/// Whether a value says nothing.
pub(super) fn is_empty(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::String(text) => text.trim().is_empty() || text.trim() == "[]",
        Json::Array(list) => list.is_empty(),
        Json::Object(map) => map.values().all(Json::is_null),
        Json::Bool(_) | Json::Number(_) => false,
    }
}

/// Formats the type and value for an error message: `a number (3)`.
pub(super) fn described(value: &Json) -> String {
    if let Some((word, place)) = stands_for(value) {
        // The message names the column; only a place within it is news.
        let is_within = place.contains(['.', '[']);
        return if is_within { format!("{word} in {}", shortened(place)) } else { word.to_owned() };
    }
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

/// Lists the names of all columns: `` `a`, `b` ``.
pub(super) fn named(fields: &Fields) -> String {
    listed(fields.keys().map(String::as_str))
}

/// Lists names: `` `a`, `b` ``. Of very many names the first 24.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    let mut shown: Vec<_> = names.iter().take(24).map(|name| format!("`{}`", shortened(name))).collect();
    if names.len() > shown.len() {
        shown.push(format!("and {} more", names.len() - shown.len()));
    }
    shown.join(", ")
}

/// Returns a name as a key or a value of YAML: in quotes, if white space or signs of YAML would be lost.
pub(super) fn key(name: &str) -> String {
    let is_plain = name.chars().all(|c| c.is_alphanumeric() || ['_', '-', '.'].contains(&c))
        && name.starts_with(char::is_alphabetic);
    if is_plain { name.to_owned() } else { Json::from(name).to_string() }
}

/// Returns the first 60 characters.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((byte, _)) => format!("{}…", &text[..byte]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_is_quoted_where_yaml_needs_it() {
        for (name, shown) in [
            ("chosen_1", "chosen_1"),
            (" chosen", "\" chosen\""),
            ("a: b", "\"a: b\""),
            ("", "\"\""),
            ("1", "\"1\""),
        ] {
            assert_eq!(key(name), shown);
        }
    }

    #[test]
    fn numbers_that_json_lacks_are_described_by_their_words() {
        assert_eq!(described(&json!({"NaN": "label"})), "NaN");
        assert_eq!(described(&json!({"-Infinity": "scores[1]"})), "-Infinity in scores[1]");
        assert_eq!(described(&json!({"NaN": 3})), "an object ({\"NaN\":3})");
    }
}
