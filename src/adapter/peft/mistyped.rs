//! Values in `adapter_config.json` that are not of their key's type: each is named, with what it should be.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::names;
use crate::error::{Error, Problems, Result};

/// What helps where a value is wrong.
const REMEDY: &str = "correct it, or save the adapter again with PEFT's save_pretrained";

/// Reads a configuration.
///
/// # Errors
/// If values have another type than their keys, or a key is missing; all values are named.
pub(super) fn read<T: DeserializeOwned>(values: Map<String, Value>) -> Result<T> {
    let error = match serde_json::from_value(Value::Object(values.clone())) {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    let mut problems = Problems::default();
    for (key, value) in &values {
        // The others as they are missing: only a wrong value says something other than that a key is.
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        let Err(error) = serde_json::from_value::<T>(Value::Object(alone)) else { continue };
        if !is_missing(&error) {
            let shown = names::shown(&value.to_string());
            problems.add(format!("{key} is {shown}: {}; {REMEDY}", in_words(&error)));
        }
    }
    problems.finish().map_err(|problems| Error::Adapter(problems.to_string()))?;
    Err(Error::Adapter(format!("{error}; {REMEDY}")))
}

fn is_missing(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("missing field")
}

/// What serde expects, in words.
fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("data did not match any variant") {
        return "it has another type than PEFT writes".into();
    }
    let Some((_, expected)) = text.rsplit_once("expected ") else { return text };
    let words = match expected {
        "f32" | "f64" => "a number",
        "usize" | "u32" | "u64" => "a whole number that is not negative",
        "a boolean" => "true or false",
        other => other,
    };
    format!("it must be {words}")
}

/// Says where a text is not JSON, by the key whose value is not.
pub(super) fn syntax(text: &str, error: &serde_json::Error) -> String {
    if error.is_data() {
        return format!("it is not a JSON object: {error}; {REMEDY}");
    }
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
    let end = (0..=error.column().min(line.len())).rev().find(|end| line.is_char_boundary(*end));
    let (before, rest) = line.split_at(end.unwrap_or(0));
    let key = before.rsplit_once('"').and_then(|(before, after)| {
        let key = before.rsplit_once('"')?.1;
        after.trim_start().starts_with(':').then_some((key, after))
    });
    let at = key.map_or(String::new(), |(key, _)| format!(" in the value of {}", names::shown(key)));
    // The error may stand before or behind the first letter of the word.
    let value = key.map(|(_, after)| format!("{}{rest}", after.trim_start().trim_start_matches(':')));
    let value = value.unwrap_or_default();
    let word = value.trim_start().trim_start_matches('-');
    let why = ["NaN", "Infinity"].into_iter().find(|name| word.starts_with(name));
    let why = why.map_or(String::new(), |name| format!(", which has no {name}"));
    format!("it is not valid JSON{why}{at}: {error}; {REMEDY}")
}

#[cfg(test)]
mod tests {
    use super::super::{Accepted, PeftConfig};

    fn said(text: &str) -> String {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(super::super::CONFIG), text).unwrap();
        PeftConfig::open_for(place.path(), Accepted::default()).unwrap_err().to_string()
    }

    #[test]
    fn values_of_another_type_are_named_with_their_keys() {
        let error = said(
            r#"{"peft_type": "LORA", "lora_alpha": "16", "r": -4, "use_dora": 1, "rank_pattern": {"q_proj": 2.5}}"#,
        );
        for part in [
            "adapter_config.json: ",
            "lora_alpha is \"16\": it must be a number; correct it",
            "r is -4: it must be a whole number that is not negative",
            "use_dora is 1: it must be true or false",
            "rank_pattern is {\"q_proj\":2.5}: it must be a whole number",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
        let error = said(r#"{"r": 4, "target_modules": "all-linear"}"#);
        assert!(error.contains("missing field `peft_type`; correct it"), "{error}");
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        for (text, part) in [
            (r#"{"r": 4, "lora_alpha": NaN}"#, "which has no NaN in the value of lora_alpha: "),
            (r#"{"r": 4, "lora_alpha": -Infinity}"#, "which has no Infinity in the value of lora_alpha: "),
            ("{\n  \"r\": x\n}", "it is not valid JSON in the value of r: "),
            ("[]", "it is not a JSON object: "),
            (r#"{"r" 4}"#, "it is not valid JSON: "),
            ("", "it is not valid JSON: "),
        ] {
            let error = said(text);
            assert!(error.contains(part) && error.contains("adapter_config.json"), "{part} in {error}");
            assert!(error.contains("correct it"), "{error}");
        }
    }
}
