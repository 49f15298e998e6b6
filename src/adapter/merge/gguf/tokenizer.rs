//! The tokenizer of a merged GGUF model, from `tokenizer.json` and `tokenizer_config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

use super::super::super::gguf_writer::Value;
use super::super::templates;
use super::json::read_json;
use super::vocabulary::{self, Vocabulary};
use crate::error::Result;

/// The keys of `tokenizer.ggml` and the chat templates; the vocabulary is extended to the number of the embedding's rows.
/// `template` takes the place of the base's.
///
/// # Errors
/// If llama.cpp's tokenizers cannot do what this tokenizer does.
pub(super) fn of(
    directory: &Path,
    rows: usize,
    (config, template): (&Json, Option<&str>),
) -> Result<Vec<(String, Value)>> {
    let tokenizer = read_json(&directory.join("tokenizer.json"))?;
    let settings = read_json(&directory.join("tokenizer_config.json")).unwrap_or_default();
    let Vocabulary { model, pre, tokens, kinds, scores, merges, space_prefix } =
        vocabulary::of(&tokenizer, rows)?;
    let mut keys = vec![
        key("model", Value::Text(model.into())),
        key("pre", Value::Text(pre.into())),
        key("tokens", Value::Texts(tokens.clone())),
    ];
    keys.extend(scores.map(|scores| key("scores", Value::F32s(scores))));
    keys.push(key("token_type", Value::I32s(kinds)));
    keys.extend(merges.map(|merges| key("merges", Value::Texts(merges))));
    for name in ["bos", "eos", "unk", "pad"] {
        let text = match &settings[format!("{name}_token")] {
            Json::Object(token) => token.get("content").and_then(Json::as_str),
            token => token.as_str(),
        };
        let named = text.and_then(|text| tokens.iter().position(|token| token == text));
        let configured = || match &config[format!("{name}_token_id")] {
            Json::Array(ids) => ids.first().and_then(Json::as_u64),
            id => id.as_u64(),
        };
        let id = named.map(|id| id as u64).or_else(configured).and_then(|id| u32::try_from(id).ok());
        let ggml = if name == "unk" {
            "unknown"
        } else if name == "pad" {
            "padding"
        } else {
            name
        };
        keys.extend(id.map(|id| key(&format!("{ggml}_token_id"), Value::U32(id))));
    }
    let (first, last) = added(&tokenizer["post_processor"]);
    keys.push(key("add_bos_token", Value::Flag(first)));
    keys.push(key("add_eos_token", Value::Flag(last)));
    keys.extend(space_prefix.map(|prefix| key("add_space_prefix", Value::Flag(prefix))));
    keys.extend(templates_of(directory, template)?);
    Ok(keys)
}

fn key(name: &str, value: Value) -> (String, Value) {
    (format!("tokenizer.ggml.{name}"), value)
}

/// Whether a special token is added at the beginning and at the end of a text.
fn added(processor: &Json) -> (bool, bool) {
    match processor["type"].as_str() {
        Some("Sequence") => processor["processors"]
            .as_array()
            .into_iter()
            .flatten()
            .map(added)
            .fold((false, false), |(a, b), (c, d)| (a || c, b || d)),
        Some("TemplateProcessing") => {
            let pieces = processor["single"].as_array();
            let special =
                |piece: Option<&Json>| piece.is_some_and(|piece| piece.get("SpecialToken").is_some());
            (special(pieces.and_then(|all| all.first())), special(pieces.and_then(|all| all.last())))
        }
        _ => (false, false),
    }
}

/// The keys of the chat templates as llama.cpp's `add_chat_template` writes them; `own` takes the place of the default one.
fn templates_of(directory: &Path, own: Option<&str>) -> Result<Vec<(String, Value)>> {
    let mut found = templates::of(directory)?;
    found.extend(own.map(|text| (templates::DEFAULT.to_string(), text.to_string())));
    let default = found.remove(templates::DEFAULT);
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let named: BTreeMap<String, String> =
        found.into_iter().map(|(name, text)| (name.chars().map(plain).collect(), text)).collect();
    let names: Vec<String> = named.keys().cloned().collect();
    let mut keys: Vec<(String, Value)> = named
        .into_iter()
        .map(|(name, text)| (format!("tokenizer.chat_template.{name}"), Value::Text(text)))
        .collect();
    if !names.is_empty() {
        keys.push(("tokenizer.chat_templates".into(), Value::Texts(names)));
    }
    keys.extend(default.map(|text| ("tokenizer.chat_template".into(), Value::Text(text))));
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chat_template_has_a_key() {
        let place = tempfile::tempdir().unwrap();
        let list = r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool-use", "template": "t"}]}"#;
        std::fs::write(place.path().join("tokenizer_config.json"), list).unwrap();
        for (own, default) in [(None, "d"), (Some("own"), "own")] {
            let keys = templates_of(place.path(), own).unwrap();
            let found: Vec<(&str, Vec<&str>)> = keys
                .iter()
                .map(|(key, value)| match value {
                    Value::Text(text) => (key.as_str(), vec![text.as_str()]),
                    Value::Texts(texts) => (key.as_str(), texts.iter().map(String::as_str).collect()),
                    _ => panic!("{key} is no text"),
                })
                .collect();
            let expected = [
                ("tokenizer.chat_template.tool_use", vec!["t"]),
                ("tokenizer.chat_templates", vec!["tool_use"]),
                ("tokenizer.chat_template", vec![default]),
            ];
            assert_eq!(found, expected);
        }
    }
}
