//! The chat templates in a model directory, in all places where transformers looks for them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::files;

/// The name of the template that is used unless another is named.
pub(crate) const DEFAULT: &str = "default";

/// The file of the default template.
const FILE: &str = "chat_template.jinja";
/// The directory of the others.
const NAMED: &str = "additional_chat_templates";
/// The settings of the tokenizer, which hold the templates of older models.
const CONFIG: &str = "tokenizer_config.json";
/// The same for older processors.
const OF_PROCESSOR: &str = "chat_template.json";
/// The key in both.
const KEY: &str = "chat_template";

/// Returns the templates by name: those in files, else those in the settings of the tokenizer. A blank one is none.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn of(directory: &Path) -> Result<BTreeMap<String, String>> {
    let mut named = in_files(directory)?;
    if named.is_empty() {
        named = in_settings(&settings(&directory.join(CONFIG))?[KEY]);
    }
    let named = named.into_iter().map(|(name, text)| (name, files::without_mark(text)));
    Ok(named.filter(|(_, text)| !text.trim().is_empty()).collect())
}

/// Puts `text` in the place of the default template, wherever the directory holds one. The others stay.
///
/// # Errors
/// If a file cannot be read or written.
pub(super) fn put(directory: &Path, text: &str) -> Result<()> {
    let mut is_held = false;
    for name in [CONFIG, OF_PROCESSOR] {
        let path = directory.join(name);
        let mut settings = settings(&path)?;
        if settings[KEY].is_null() {
            continue;
        }
        is_held |= name == CONFIG;
        replace(&mut settings[KEY], text);
        files::write_bytes(&path, format!("{settings:#}\n").as_bytes())?;
    }
    let file = directory.join(FILE);
    // With templates in files, those in the settings do not count.
    if file.is_file() || directory.join(NAMED).is_dir() || !is_held {
        files::write_bytes(&file, text.as_bytes())?;
    }
    Ok(())
}

fn in_files(directory: &Path) -> Result<BTreeMap<String, String>> {
    let mut named = BTreeMap::new();
    let file = directory.join(FILE);
    if file.is_file() {
        named.insert(DEFAULT.to_string(), files::read_text(&file)?);
    }
    let others = directory.join(NAMED);
    if !others.is_dir() {
        return Ok(named);
    }
    for entry in std::fs::read_dir(&others).map_err(Error::read(&others))? {
        let file = entry.map_err(Error::read(&others))?.path();
        let name = file.file_name().and_then(|name| name.to_str()?.strip_suffix(".jinja"));
        if let Some(name) = name {
            named.insert(name.to_string(), files::read_text(&file)?);
        }
    }
    Ok(named)
}

/// The templates of a setting: a text, a list of `{name, template}`, or an object of names and templates.
fn in_settings(setting: &Json) -> BTreeMap<String, String> {
    let named = |name: &str, text: &Json| Some((name.to_string(), text.as_str()?.to_string()));
    match setting {
        Json::Array(list) => {
            list.iter().filter_map(|each| named(each["name"].as_str()?, &each["template"])).collect()
        }
        Json::Object(map) => map.iter().filter_map(|(name, text)| named(name, text)).collect(),
        text => named(DEFAULT, text).into_iter().collect(),
    }
}

/// Replaces the default template in a setting.
fn replace(setting: &mut Json, text: &str) {
    match setting {
        Json::Array(list) => {
            list.retain(|each| each["name"] != DEFAULT);
            list.insert(0, json!({"name": DEFAULT, "template": text}));
        }
        Json::Object(map) => {
            map.insert(DEFAULT.into(), text.into());
        }
        other => *other = text.into(),
    }
}

/// The object in a file of settings; an empty one if there is no such file.
fn settings(path: &Path) -> Result<Json> {
    if !path.is_file() {
        return Ok(json!({}));
    }
    let read: Json = serde_json::from_str(&files::read_text(path)?)
        .map_err(|e| Error::Model(format!("{} is not JSON: {e}", path.display())))?;
    match read {
        Json::Object(_) => Ok(read),
        _ => Err(Error::Model(format!("{} is not a JSON object", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files of a directory, the other templates in it, and the files that hold the new one afterwards.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], &'a [&'a str]);

    /// What the templates are afterwards, and the files that then hold the new one.
    fn put_into(files: &[(&str, &str)]) -> (BTreeMap<String, String>, Vec<String>) {
        let place = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = place.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        put(place.path(), "own").unwrap();
        let entries = std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path());
        let holds = |path: &std::path::PathBuf| {
            path.is_file() && std::fs::read_to_string(path).unwrap().contains("own")
        };
        let name = |path: std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_string();
        let mut held: Vec<String> = entries.filter(holds).map(name).collect();
        held.sort();
        (of(place.path()).unwrap(), held)
    }

    #[test]
    fn a_template_takes_the_place_of_the_default_one_wherever_that_is() {
        let list = r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
        let tools = ("tool_use", "t");
        let cases: [Case; 8] = [
            (&[], &[], &["chat_template.jinja"]),
            (&[("tokenizer_config.json", r#"{"eos_token": "e"}"#)], &[], &["chat_template.jinja"]),
            (&[("tokenizer_config.json", r#"{"chat_template": "d"}"#)], &[], &["tokenizer_config.json"]),
            (&[("tokenizer_config.json", list)], &[tools], &["tokenizer_config.json"]),
            (
                &[("tokenizer_config.json", r#"{"chat_template": {"tool_use": "t"}}"#)],
                &[tools],
                &["tokenizer_config.json"],
            ),
            (&[("chat_template.jinja", "d")], &[], &["chat_template.jinja"]),
            (
                &[("chat_template.jinja", "d"), ("tokenizer_config.json", r#"{"chat_template": "d"}"#)],
                &[],
                &["chat_template.jinja", "tokenizer_config.json"],
            ),
            (&[("additional_chat_templates/tool_use.jinja", "t")], &[tools], &["chat_template.jinja"]),
        ];
        for (files, others, held) in cases {
            let mut expected = BTreeMap::from([(DEFAULT.to_string(), "own".to_string())]);
            expected.extend(others.iter().map(|(name, text)| ((*name).to_string(), (*text).to_string())));
            let held: Vec<String> = held.iter().map(|name| (*name).to_string()).collect();
            assert_eq!(put_into(files), (expected, held), "{files:?}");
        }
    }

    #[test]
    fn a_blank_template_is_none() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(FILE), "\u{feff}\n").unwrap();
        assert_eq!(of(place.path()).unwrap(), BTreeMap::new());
    }
}
