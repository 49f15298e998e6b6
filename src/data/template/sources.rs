//! Locates a model's chat templates and selects the default one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::builtin;
use crate::error::{Error, Result};
use crate::files;

/// The name of the template that is used unless another is named.
pub(super) const DEFAULT: &str = "default";

/// Returns the texts of the templates to use, by name, following the rules of [`super::find`]; `None` if there are
/// none. A template of the model that is blank counts as none: it would render every conversation to nothing.
///
/// # Errors
/// Fails if a file cannot be read, `chat_template` has the wrong type, or the setting is blank.
pub(super) fn find(
    setting: Option<&str>,
    model_dir: Option<&Path>,
    tokenizer_config: &Map<String, Json>,
) -> Result<Option<BTreeMap<String, String>>> {
    let mut named = match model_dir {
        Some(dir) => from_files(dir)?,
        None => BTreeMap::new(),
    };
    if named.is_empty() {
        named = from_config(tokenizer_config)?;
    }
    named.retain(|_, text| !is_blank(text));
    if let Some(setting) = setting {
        let source = from_setting(setting, &named)?;
        if is_blank(&source) {
            return Err(Error::Config(format!(
                "data.chat_template `{}` is blank: every conversation would render to nothing; give it the text of a \
                 template, or take it away for the model's own",
                setting.trim()
            )));
        }
        // The setting applies to every row, but a row may still name one of the model's own templates.
        named.remove("tool_use");
        named.insert(DEFAULT.into(), source);
    }
    // A byte-order mark is not visible in an editor, and would stand in every prompt.
    let named: BTreeMap<_, _> =
        named.into_iter().map(|(name, text)| (name, files::without_mark(text))).collect();
    Ok(Some(named).filter(|named| !named.is_empty()))
}

/// Makes a setting independent of the directory: a file is replaced by its text; a name or Jinja text stays as it is.
pub fn portable(setting: &str) -> String {
    if is_jinja(setting) || builtin::named(setting).is_some() {
        return setting.to_owned();
    }
    files::read_text(Path::new(setting)).unwrap_or_else(|_| setting.to_owned())
}

/// Whether a template has no text but white space and a byte-order mark.
fn is_blank(template: &str) -> bool {
    template.trim_start_matches('\u{feff}').trim().is_empty()
}

fn is_jinja(setting: &str) -> bool {
    ["{{", "{%", "\n"].iter().any(|mark| setting.contains(mark))
}

fn from_setting(setting: &str, named: &BTreeMap<String, String>) -> Result<String> {
    if is_jinja(setting) {
        return Ok(setting.to_owned());
    }
    if let Some(source) = named.get(setting).map(String::as_str).or_else(|| builtin::named(setting)) {
        return Ok(source.to_owned());
    }
    files::read_text(Path::new(setting)).map_err(|e| {
        let own: Vec<&str> = named.keys().map(String::as_str).collect();
        Error::Config(format!(
            "data.chat_template `{setting}` is neither Jinja text (no `{{{{` or `{{%` in it), nor a built-in template ({}), \
             nor one of the model's ({}), nor a file that can be read: {e}",
            builtin::names(),
            if own.is_empty() { "it has none".to_owned() } else { own.join(", ") }
        ))
    })
}

fn from_files(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut named = BTreeMap::new();
    let file = dir.join("chat_template.jinja");
    if file.is_file() {
        named.insert(DEFAULT.to_owned(), files::read_text(&file)?);
    }
    let more = dir.join("additional_chat_templates");
    if more.is_dir() {
        for entry in fs::read_dir(&more).map_err(Error::read(&more))? {
            let file = entry.map_err(Error::read(&more))?.path();
            let name =
                file.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jinja"));
            if let Some(name) = name {
                named.insert(name.to_owned(), files::read_text(&file)?);
            }
        }
    }
    Ok(named)
}

/// Reads a string, a list of `{name, template}`, or an object of names and templates.
fn from_config(config: &Map<String, Json>) -> Result<BTreeMap<String, String>> {
    let wrong = || {
        Error::Data(
            "chat_template in tokenizer_config.json is neither a string nor a list of {name, template}; set \
             data.chat_template"
                .into(),
        )
    };
    match config.get("chat_template") {
        None | Some(Json::Null) => Ok(BTreeMap::new()),
        Some(Json::String(source)) => Ok(BTreeMap::from([(DEFAULT.to_owned(), source.clone())])),
        Some(Json::Array(list)) => list
            .iter()
            .map(|entry| {
                let text = |key: &str| entry.get(key).and_then(Json::as_str).map(str::to_owned);
                text("name").zip(text("template")).ok_or_else(wrong)
            })
            .collect(),
        Some(Json::Object(map)) => map
            .iter()
            .map(|(name, source)| Ok((name.clone(), source.as_str().ok_or_else(wrong)?.to_owned())))
            .collect(),
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_blank_template_is_none_and_a_blank_setting_an_error() {
        let place = tempfile::tempdir().unwrap();
        let config = json!({"chat_template": "\n"});
        let found = |setting: Option<&str>| find(setting, Some(place.path()), config.as_object().unwrap());
        assert_eq!(found(None).unwrap(), None);
        let file = place.path().join("blank.jinja");
        fs::write(&file, "\u{feff}\n").unwrap();
        for setting in ["\n", file.to_str().unwrap()] {
            let error = found(Some(setting)).unwrap_err().to_string();
            assert!(error.contains("is blank: every conversation would render to nothing"), "{error}");
        }
        let one = [("default", ""), ("tool_use", "{{ messages }}")];
        let config =
            json!({"chat_template": one.map(|(name, template)| json!({"name": name, "template": template}))});
        let found = find(None, None, config.as_object().unwrap()).unwrap().unwrap();
        assert_eq!(found.into_keys().collect::<Vec<_>>(), ["tool_use"]);
    }

    #[test]
    fn no_template_begins_with_a_byte_order_mark() {
        const TEXT: &str = "{{ messages[0].content }}";
        let marked = format!("\u{feff}{TEXT}");
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("own.txt");
        fs::write(&file, &marked).unwrap();
        assert_eq!(portable(file.to_str().unwrap()), TEXT);
        let config = json!({"chat_template": marked});
        let config = config.as_object().unwrap();
        let default = |setting: Option<&str>, directory: Option<&Path>, config: &Map<String, Json>| {
            find(setting, directory, config).unwrap().unwrap()[DEFAULT].clone()
        };
        assert_eq!(default(file.to_str(), None, &Map::new()), TEXT);
        assert_eq!(default(Some(&marked), None, &Map::new()), TEXT);
        assert_eq!(default(None, None, config), TEXT);
        fs::write(place.path().join("chat_template.jinja"), &marked).unwrap();
        assert_eq!(default(None, Some(place.path()), &Map::new()), TEXT);
    }
}
