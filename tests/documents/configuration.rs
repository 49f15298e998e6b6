//! The configuration reference lists every key with its default, and every YAML, JSON and Rust example is accepted.

use std::collections::BTreeMap;

use dpo_lora::config::{Recipe, RunConfig};
use dpo_lora::data::{Input, records};
use dpo_lora::judge::JudgeConfig;
use dpo_lora::objective::{Loss, Objective, ObjectiveConfig};
use serde_yaml::Value;

use super::{blocks, documents, read};

/// Keys that have no default.
const REQUIRED: [&str; 2] = ["model.base", "data.train"];

/// Keys outside all sections.
const TOP_LEVEL: [&str; 2] = ["output_dir", "seed"];

/// Returns every key of the program with its default, including the parameters of losses that are not the default.
fn defaults() -> BTreeMap<String, Value> {
    let all = serde_yaml::to_value(RunConfig::new("", "")).unwrap();
    let mut keys = BTreeMap::new();
    for loss in Loss::all() {
        let config = serde_yaml::to_value(ObjectiveConfig::from(&Objective::new(loss))).unwrap();
        for (key, value) in config.as_mapping().unwrap() {
            keys.entry(format!("objective.{}", key.as_str().unwrap())).or_insert(value.clone());
        }
    }
    for (name, value) in all.as_mapping().unwrap() {
        let name = name.as_str().unwrap();
        match value.as_mapping() {
            Some(section) => keys.extend(
                section
                    .iter()
                    .map(|(key, value)| (format!("{name}.{}", key.as_str().unwrap()), value.clone())),
            ),
            None => {
                keys.insert(name.into(), value.clone());
            }
        }
    }
    keys
}

/// Returns the rows of the page: key and default, as written.
fn documented() -> BTreeMap<String, String> {
    let page = read("docs/src/configuration.md");
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let key = cells.next()?.strip_suffix('`')?;
        let is_key = key.contains('.') || TOP_LEVEL.contains(&key);
        if !is_key {
            return None;
        }
        Some((key.to_string(), cells.next()?.trim_matches('`').to_string()))
    });
    rows.collect()
}

#[test]
fn every_key_is_documented_with_its_default() {
    let (known, written) = (defaults(), documented());
    let missing: Vec<_> = known.keys().filter(|key| !written.contains_key(*key)).collect();
    assert!(missing.is_empty(), "docs/src/configuration.md lacks {missing:?}");
    for (key, default) in written {
        let Some(value) = known.get(&key) else {
            panic!("docs/src/configuration.md names {key}, which is no key")
        };
        if REQUIRED.contains(&key.as_str()) {
            assert_eq!(default, "required", "{key}");
            continue;
        }
        let read: Value = serde_yaml::from_str(&default).unwrap();
        assert_eq!(&read, value, "{key}: docs/src/configuration.md says {default}");
    }
}

#[test]
fn every_loss_is_documented() {
    let (page, choice) = (read("docs/src/configuration.md"), read("docs/src/losses.md"));
    for loss in Loss::all() {
        let names = ObjectiveConfig::from(&Objective::new(loss)).loss_type;
        assert!(page.contains(&format!("| `{}` |", names[0])), "docs/src/configuration.md lacks {names:?}");
        let row =
            choice.lines().find(|line| line.starts_with("| `") && line.contains(&format!("`{}`", names[0])));
        assert!(row.is_some(), "docs/src/losses.md lacks {names:?}");
    }
}

#[test]
fn every_yaml_example_is_a_configuration() {
    let required: Vec<String> = REQUIRED.iter().map(|key| format!("{key}=x")).collect();
    let mut seen = 0;
    for document in documents() {
        for block in blocks(&read(&document)).iter().filter(|block| block.language == "yaml") {
            seen += 1;
            // A judge has a file of its own.
            let read = if block.text.starts_with("endpoint:") {
                JudgeConfig::from_yaml(&block.text, &document).map(drop)
            } else {
                Recipe::from_yaml(&block.text, &document, &required).map(drop)
            };
            assert!(read.is_ok(), "{}", read.unwrap_err());
        }
    }
    assert!(seen >= 5, "{seen}");
}

#[test]
fn every_key_of_a_judge_is_documented_with_its_default() {
    let known = serde_json::to_value(JudgeConfig::new("http://h", "m")).unwrap();
    let page = read("docs/src/evaluation.md");
    for (key, value) in known.as_object().unwrap() {
        let row = page.lines().find_map(|line| line.strip_prefix(&format!("| `{key}` | ")));
        let default = row.unwrap_or_else(|| panic!("docs/src/evaluation.md lacks {key}"));
        let default = default.split(" | ").next().unwrap();
        let expected = match (key.as_str(), value.as_str()) {
            ("endpoint" | "model", _) => "required".to_string(),
            (_, Some(text)) => format!("`{text}`"),
            (_, None) => format!("`{value}`"),
        };
        assert_eq!(default, expected, "{key}");
    }
}

#[test]
fn every_json_example_is_a_record() {
    let mut seen = 0;
    for document in documents() {
        for block in blocks(&read(&document)).into_iter().filter(|block| block.language == "json") {
            let lines = block.text.lines().count();
            let found = records::load(&[Input::text(document.as_str(), block.text)]);
            assert_eq!(found.unwrap_or_else(|error| panic!("{error}")).len(), lines, "{document}");
            seen += lines;
        }
    }
    assert!(seen >= 5, "{seen}");
}

/// The doc tests of `src/lib.rs` run its examples, so an example that consists of their lines works.
#[test]
fn every_rust_example_is_a_doc_test() {
    let tested = read("src/lib.rs");
    let tested: Vec<&str> =
        tested.lines().filter_map(|line| Some(line.strip_prefix("//!")?.trim())).collect();
    for document in documents() {
        for block in blocks(&read(&document)).iter().filter(|block| block.language == "rust") {
            for line in block.text.lines() {
                assert!(tested.contains(&line.trim()), "{document}: src/lib.rs has no line {line}");
            }
        }
    }
}
