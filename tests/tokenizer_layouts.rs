//! Every layout and flag of a tokenizer's files compared with transformers' `AutoTokenizer`
//! (`fixtures/tokenizers/matrix.py`): the same tokens, or a refusal.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use dpo_lora::data::ChatTokenizer;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Matrix {
    texts: Vec<String>,
    bases: BTreeMap<String, Value>,
    binary: BTreeMap<String, BTreeMap<String, String>>,
    outcomes: Vec<Outcome>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    base: String,
    /// Whether the vocabulary is written as `vocab.json` and `merges.txt`.
    #[serde(default)]
    split: bool,
    expected: usize,
    /// Files by name.
    #[serde(flatten)]
    files: Map<String, Value>,
}

#[derive(Deserialize)]
struct Outcome {
    error: Option<String>,
    #[serde(default)]
    ids: Vec<Vec<u32>>,
    #[serde(default)]
    bare: Vec<Vec<u32>>,
    #[serde(default)]
    named: BTreeMap<String, String>,
}

fn write(matrix: &Matrix, case: &Case, folder: &Path) {
    for (name, content) in &case.files {
        let name = format!("{}.json", name.strip_suffix(".json").unwrap_or(name));
        fs::write(folder.join(name), content.to_string()).unwrap();
    }
    if let Some(files) = matrix.binary.get(&case.base) {
        for (name, text) in files {
            let bytes = if name.ends_with(".model") {
                base64::engine::general_purpose::STANDARD.decode(text).unwrap()
            } else {
                text.clone().into_bytes()
            };
            fs::write(folder.join(name), bytes).unwrap();
        }
        return;
    }
    let base = &matrix.bases[&case.base];
    if case.split {
        fs::write(folder.join("vocab.json"), base["model"]["vocab"].to_string()).unwrap();
        let merges = base["model"]["merges"].as_array().unwrap().iter();
        let lines =
            merges.map(|pair| format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
        fs::write(folder.join("merges.txt"), format!("#version: 0.2\n{}", lines.collect::<String>()))
            .unwrap();
    } else {
        fs::write(folder.join("tokenizer.json"), base.to_string()).unwrap();
    }
}

/// Returns the difference, if there is any.
fn compare(tokenizer: &ChatTokenizer, texts: &[String], outcome: &Outcome) -> Option<String> {
    for (special, expected) in [(true, &outcome.ids), (false, &outcome.bare)] {
        for (text, expected) in texts.iter().zip(expected) {
            let found = match tokenizer.encode(text, special) {
                Ok(ids) => ids,
                Err(error) => return Some(format!("{text:?}: {error}")),
            };
            if found != *expected {
                return Some(format!(
                    "{text:?} (special tokens {special}): {found:?}, expected {expected:?}"
                ));
            }
        }
    }
    for (name, text) in &outcome.named {
        if tokenizer.special_token(name) != Some(text) {
            return Some(format!("{name}: {:?}, expected {text:?}", tokenizer.special_token(name)));
        }
    }
    None
}

#[test]
fn every_layout_gives_transformers_tokens_or_is_refused() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/matrix.json");
    let matrix: Matrix = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let (mut same, mut refused, mut wrong) = (0, BTreeMap::<String, usize>::new(), Vec::new());
    for case in &matrix.cases {
        let folder = tempfile::tempdir().unwrap();
        write(&matrix, case, folder.path());
        let outcome = &matrix.outcomes[case.expected];
        let about = || format!("{} {}", case.base, Value::Object(case.files.clone()));
        let encode =
            |tokenizer: &ChatTokenizer| matrix.texts.iter().all(|text| tokenizer.encode(text, true).is_ok());
        match (ChatTokenizer::load(folder.path(), None), &outcome.error) {
            (Ok(tokenizer), Some(error)) if encode(&tokenizer) => {
                wrong.push(format!("{}\n  loads, where transformers says {error}", about()));
            }
            (_, Some(_)) => same += 1,
            (Err(error), None) => {
                let text = error.to_string().replace(folder.path().to_str().unwrap(), "DIR");
                *refused.entry(text).or_default() += 1;
            }
            (Ok(tokenizer), None) => match compare(&tokenizer, &matrix.texts, outcome) {
                None => same += 1,
                Some(difference) => wrong.push(format!("{}\n  {difference}", about())),
            },
        }
    }
    println!("{same} of {} the same; refused: {refused:#?}", matrix.cases.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    assert!(same >= matrix.cases.len() * 95 / 100, "{same} of {}", matrix.cases.len());
}
