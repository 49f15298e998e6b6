//! What Python's `json` writes and JSON does not have: `NaN`, `Infinity`, `-Infinity`, and halves of surrogate pairs.

use serde_json::{Map, Value as Json};

use super::numbers::not_json;
use super::unambiguous::parse;

/// Key of the object that stands for a number in the text that is parsed a second time. A file's own key would have to
/// be this one, with its NUL.
const STAND_IN: &str = "\0NaN";
/// The bare words, and what takes their place for the second parse.
const WORDS: [(&str, &str, &str); 3] = [
    ("-Infinity", "-0       ", r#"{"\u0000NaN":"-Infinity"}"#),
    ("Infinity", "0       ", r#"{"\u0000NaN":"Infinity"}"#),
    ("NaN", "0  ", r#"{"\u0000NaN":"NaN"}"#),
];

/// What a text that is not JSON is to Python.
pub(super) enum Reading {
    /// A value; fields that hold NaN are objects that say so.
    Value(Json),
    /// A text without any of the three words.
    Plain,
    /// A text with one of the words, and another fault.
    Other(serde_json::Error),
    /// An escape that is half of a character, and the byte that it begins at.
    Surrogate {
        /// Byte offset.
        at: usize,
        /// The escape as it is written.
        escape: String,
    },
}

/// Reads `text`, which is not JSON, as Python's `json` does.
pub(super) fn read(text: &str) -> Reading {
    // With placeholders of the same length, an error has the position that it has in the text.
    let (mut same, mut marked) = (String::with_capacity(text.len()), String::new());
    let (mut copied, mut at) = (0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'"' => match string_end(text, at) {
                Ok(end) => at = end,
                Err(surrogate) => return surrogate,
            },
            b'-' | b'I' | b'N' => match word(text, at) {
                Some((word, placeholder, stand_in)) => {
                    same.push_str(&text[copied..at]);
                    marked.push_str(&text[copied..at]);
                    same.push_str(placeholder);
                    marked.push_str(stand_in);
                    at += word.len();
                    copied = at;
                }
                None => at += 1,
            },
            _ => at += 1,
        }
    }
    if copied == 0 {
        return Reading::Plain;
    }
    same.push_str(&text[copied..]);
    marked.push_str(&text[copied..]);
    if let Err(error) = parse(&same) {
        return Reading::Other(error);
    }
    match serde_json::from_str(&marked) {
        Ok(value) => Reading::Value(named(value)),
        Err(error) => Reading::Other(error),
    }
}

/// The word at `at`, unless it is a part of a longer one.
fn word(text: &str, at: usize) -> Option<(&'static str, &'static str, &'static str)> {
    let part = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || b"_-+.$".contains(b));
    let bytes = text.as_bytes();
    let found = WORDS.into_iter().find(|(word, ..)| bytes[at..].starts_with(word.as_bytes()))?;
    let before = at.checked_sub(1).and_then(|before| bytes.get(before));
    (!part(before) && !part(bytes.get(at + found.0.len()))).then_some(found)
}

/// The byte behind the string that begins at `start`, or the half character in it.
fn string_end(text: &str, start: usize) -> Result<usize, Reading> {
    let bytes = text.as_bytes();
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6).filter(|escape| escape.starts_with(b"\\u"))?;
        u16::from_str_radix(std::str::from_utf8(&digits[2..]).ok()?, 16).ok()
    };
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match (byte, unit(at)) {
            (b'"', _) => return Ok(at + 1),
            (_, Some(0xD800..=0xDBFF))
                if unit(at + 6).is_some_and(|low| (0xDC00..=0xDFFF).contains(&low)) =>
            {
                at += 12;
            }
            (_, Some(0xD800..=0xDFFF)) => {
                return Err(Reading::Surrogate { at, escape: text[at..at + 6].to_owned() });
            }
            (_, Some(_)) => at += 6,
            (b'\\', None) => at += 2,
            _ => at += 1,
        }
    }
    Ok(bytes.len())
}

/// Whole fields in whose value NaN occurs become an object that says where.
fn named(value: Json) -> Json {
    match value {
        Json::Object(fields) if stand_in(&fields).is_none() => {
            let fields = fields.into_iter().map(|(name, value)| match find(&value, &name) {
                Some((word, place)) => (name, not_json(&word, &place)),
                None => (name, value),
            });
            Json::Object(fields.collect())
        }
        other => match find(&other, "") {
            Some((word, place)) => not_json(&word, &place),
            None => other,
        },
    }
}

fn stand_in(fields: &Map<String, Json>) -> Option<&str> {
    fields.get(STAND_IN).and_then(Json::as_str)
}

/// The first such number in `value`, which stands at `place`: the word and the number's place.
fn find(value: &Json, place: &str) -> Option<(String, String)> {
    match value {
        Json::Object(fields) => match stand_in(fields) {
            Some(word) => Some((word.to_owned(), place.to_owned())),
            None => fields.iter().find_map(|(name, value)| find(value, &format!("{place}.{name}"))),
        },
        Json::Array(items) => {
            items.iter().enumerate().find_map(|(i, value)| find(value, &format!("{place}[{i}]")))
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::parse_json;
    use super::*;
    use serde_json::json;

    fn parsed(text: &str) -> Json {
        parse_json(text.as_bytes()).unwrap_or_else(|e| panic!("{}", e.message(0)))
    }

    fn refused(text: &str) -> (usize, String) {
        let broken = parse_json(text.as_bytes()).err().unwrap();
        (broken.line, broken.message(0))
    }

    #[test]
    fn numbers_that_json_lacks_are_named_and_their_words_in_strings_stay() {
        let value = parsed(
            r#"{"a": NaN, "b": "NaN, Infinity", "c": [1, -Infinity], "d": {"e": [Infinity]}, "f": 1}"#,
        );
        assert_eq!(
            value,
            json!({"a": {"NaN": "a"}, "b": "NaN, Infinity", "c": {"-Infinity": "c[1]"}, "d": {"Infinity": "d.e[0]"}, "f": 1})
        );
        assert_eq!(parsed(r#"{"a\"": NaN}"#), json!({"a\"": {"NaN": "a\""}}));
        assert_eq!(parsed("NaN"), json!({"NaN": ""}));
        assert_eq!(parsed(r#"[{"a": NaN}]"#), json!({"NaN": "[0].a"}));
    }

    #[test]
    fn other_words_and_other_faults_stay_errors_at_their_place() {
        for text in
            ["[nan]", "[NaNs]", "[inf]", "[--Infinity]", "[+Infinity]", "[1NaN]", "[NaN NaN]", "[NaN-1]"]
        {
            assert!(refused(text).1.starts_with("not valid JSON"), "{text}");
        }
        assert_eq!(
            refused("{\"a\": NaN,\n \"b\" NaN}"),
            (2, "not valid JSON at column 6: expected `:`".into())
        );
        assert_eq!(refused("{NaN: 1}").1, "not valid JSON at column 2: key must be a string");
        assert!(refused("{\"a\": NaN,\n \"a\": 1}").1.contains("the key \"a\" stands twice"));
    }

    #[test]
    fn half_of_an_emoji_is_refused_and_both_halves_are_read() {
        assert_eq!(parsed(r#"["\ud83d\ude00", "\\ud83d", NaN]"#), json!({"NaN": "[2]"}));
        assert_eq!(parsed(r#"["\uD83D\uDE00\\ud83d"]"#), json!(["\u{1F600}\\ud83d"]));
        for text in [
            r#"{"a": "é\ud83d"}"#,
            r#"{"a": "é\ud83d x"}"#,
            r#"{"a": "é\ude00\ud83d"}"#,
            r#"{"a": "é\ud83d\ud83d\ude00"}"#,
        ] {
            let message = refused(text).1;
            assert!(
                message.starts_with("not a text at column 9: `\\ud") && message.contains("emoji"),
                "{message}"
            );
        }
    }
}
