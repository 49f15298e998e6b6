//! Small inputs whose tokens were once wrong: tokenizers and templates with TRL's tokens for their rows
//! (`fixtures/data_cases`; we wrote all texts).
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};

use dpo_lora::data::{ChatTokenizer, records, source, tokenize};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    what: String,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    prompt_ids: Vec<u32>,
    chosen_ids: Vec<u32>,
    rejected_ids: Vec<u32>,
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data_cases");
    let mut found: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn every_row_has_trls_tokens() {
    let cases = cases();
    assert!(cases.len() >= 11, "{cases:?}");
    for case in cases {
        let expected: Expected =
            serde_json::from_slice(&fs::read(case.join("expected.json")).unwrap()).unwrap();
        let tokenizer = ChatTokenizer::load(case.join("model"), None).unwrap();
        let inputs = source::resolve(&case.join("data.jsonl").display().to_string().into()).unwrap();
        let records = records::load(&inputs).unwrap();
        assert_eq!(records.len(), expected.rows.len());
        for (record, row) in records.iter().zip(&expected.rows) {
            let example = tokenize(&tokenizer, record).unwrap().example;
            let place = format!("{}: {}", case.display(), expected.what);
            // TRL's border is after the prompt's own tokens; ours is where the two completions begin to differ from it.
            let whole = |answer: &[u32]| [&row.prompt_ids[..], answer].concat();
            let found = |index: usize| [&example.prompt[..], &example.completions[index]].concat();
            assert_eq!(found(0), whole(&row.chosen_ids), "{place}");
            assert_eq!(found(1), whole(&row.rejected_ids), "{place}");
            assert_eq!(example.prompt, row.prompt_ids, "{place}");
        }
    }
}
