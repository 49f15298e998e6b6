//! Rows of every schema: how they are read, and every way in which they are refused (`fixtures/schemas`; we wrote all
//! rows).
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use dpo_lora::data::records::Content;
use dpo_lora::data::schema::required_columns;
use dpo_lora::data::{DataConfig, Input, Kind, Message, Record, RecordReader, Schema, Wanted, records};
use serde_json::{Value as Json, json};

#[path = "data_schemas/config.rs"]
mod config;
#[path = "data_schemas/judgements.rs"]
mod judgements;
#[path = "data_schemas/lost.rs"]
mod lost;
#[path = "data_schemas/malformed.rs"]
mod malformed;
#[path = "data_schemas/rivals.rs"]
mod rivals;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schemas").join(name)
}

/// Returns the lines of a fixture file.
fn lines(name: &str) -> Vec<Json> {
    let text = fs::read_to_string(fixture(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Reads a row on line 2, so that a wrong line number is detected.
fn read(row: &str, config: &DataConfig) -> Result<Option<Record>, String> {
    read_as(row, config, Wanted::Whole)
}

fn read_as(row: &str, config: &DataConfig, wanted: Wanted) -> Result<Option<Record>, String> {
    let input = Input::text("t.jsonl", format!("\n{row}\n"));
    let reader = RecordReader::new(config).map_err(|error| error.to_string())?.wanting(wanted);
    let row = input.rows().unwrap().next().unwrap().unwrap();
    reader.read(row).map_err(|error| error.to_string())
}

fn configured(yaml: &str) -> DataConfig {
    serde_yaml::from_str(&format!("train: t.jsonl\n{yaml}")).unwrap()
}

/// Requires that the row is refused with its file, its line and all of `parts`.
#[track_caller]
fn refused_by(config: &DataConfig, row: &str, parts: &[&str]) {
    let message = match read(row, config) {
        Err(message) => message,
        Ok(record) => panic!("{row} was read as {record:?}"),
    };
    assert!(message.starts_with("t.jsonl:2: "), "{row}: {message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing for {row}: {message}");
    }
}

#[track_caller]
fn refused(row: &str, parts: &[&str]) {
    refused_by(&configured(""), row, parts);
}

/// Returns a record in the notation of the expected files.
fn shown(record: &Record) -> Json {
    let kind = match record.kind {
        Kind::Pair { .. } => "pair",
        Kind::Ranked => "ranked",
        Kind::Judged { desirable: true } => "desirable",
        Kind::Judged { desirable: false } => "undesirable",
        Kind::Text => "text",
        Kind::Mismatched => "mismatched",
        Kind::Prompt => "prompt",
    };
    let messages = |list: &[Message]| Json::from_iter(list.iter().map(|message| message.fields().clone()));
    let mut found = match &record.content {
        Content::Text { prompt, answers } => json!({"kind": kind, "prompt": prompt, "answers": answers}),
        Content::Chat { prompt, answers, tools, kwargs } => {
            let answers: Vec<Json> = answers.iter().map(|answer| messages(answer)).collect();
            let mut found = json!({"kind": kind, "prompt": messages(prompt), "answers": answers});
            tools.iter().for_each(|tools| found["tools"] = tools.clone());
            kwargs.iter().for_each(|kwargs| found["kwargs"] = Json::Object(kwargs.clone()));
            found
        }
    };
    if record.labelled {
        found["label"] = json!(record.kind.label());
    }
    if let Some(source) = &record.source {
        found["source"] = json!(**source);
    }
    found
}

#[test]
fn every_schema_is_recognised_and_read() {
    for schema in Schema::ALL {
        let name = format!("{}.jsonl", schema.name());
        let text = fs::read_to_string(fixture(&name)).unwrap_or_else(|_| panic!("{name} is missing"));
        let found =
            records::load(&[Input::text("t.jsonl", text)]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = lines(&format!("{}.expected.jsonl", schema.name()));
        assert_eq!(found.len(), expected.len(), "{name}");
        for (record, expected) in found.iter().zip(&expected) {
            assert_eq!(record.schema, *schema, "{name}: {record:?}");
            assert_eq!(&shown(record), expected, "{name}:{}", record.origin.line);
        }
    }
}

#[test]
fn every_schema_can_be_forced_by_each_of_its_names() {
    for schema in Schema::ALL {
        for name in std::iter::once(schema.name()).chain(schema.aliases().iter().copied()) {
            let config = configured(&format!("format: {name}"));
            let rows = lines(&format!("{}.jsonl", schema.name()));
            for (row, expected) in rows.iter().zip(lines(&format!("{}.expected.jsonl", schema.name()))) {
                let record = read(&row.to_string(), &config)
                    .unwrap_or_else(|error| panic!("{name}: {error}"))
                    .unwrap();
                assert_eq!((record.schema, shown(&record)), (*schema, expected), "{name}");
            }
        }
    }
}

#[test]
fn a_row_without_a_needed_column_is_never_read_as_if_it_had_it() {
    for schema in Schema::ALL {
        let expected = lines(&format!("{}.expected.jsonl", schema.name()));
        for (row, expected) in lines(&format!("{}.jsonl", schema.name())).iter().zip(expected) {
            let needed: BTreeSet<&str> =
                required_columns(*schema).flatten().flat_map(|names| names.split('|')).collect();
            for name in needed.into_iter().filter(|name| row.get(name).is_some_and(|value| !value.is_null()))
            {
                let mut without = row.clone();
                without.as_object_mut().unwrap().shift_remove(name);
                match read(&without.to_string(), &configured("")) {
                    Err(message) => assert!(message.starts_with("t.jsonl:2: "), "{message}"),
                    // Another schema with the same meaning, or one with less content, but never with other texts.
                    Ok(record) => {
                        let record = record.unwrap();
                        assert_ne!(record.schema, *schema, "{without}");
                        let said = shown(&record).to_string();
                        let same = expected["prompt"] == shown(&record)["prompt"];
                        assert!(same || said.len() <= expected.to_string().len() + 20, "{without}: {said}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_documentation_has_every_schema_and_its_columns() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/formats.md")).unwrap();
    for schema in Schema::ALL {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}`", schema.name())));
        let row = row.unwrap_or_else(|| panic!("docs/src/formats.md lacks {}", schema.name()));
        for alias in schema.aliases() {
            assert!(row.contains(&format!("`{alias}`")), "{row} lacks {alias}");
        }
        for name in required_columns(*schema).flatten().flat_map(|names| names.split('|')) {
            assert!(
                row.contains(&format!("`{name}`")),
                "docs/src/formats.md: {} lacks `{name}`",
                schema.name()
            );
        }
    }
}
