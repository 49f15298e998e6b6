//! Token ids and renderings compared with those of TRL and transformers in `tests/fixtures` (made by `tests/parity`).
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dpo_lora::data::dataset::Builder;
use dpo_lora::data::{
    ChatTemplate, ChatTokenizer, Content, DataConfig, Example, Ingest, Input, Message, RenderOptions,
    Truncation, TruncationMode, Wanted, records, source, tokenize,
};
use serde_json::{Map, Value as Json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(name: &str) -> Json {
    serde_json::from_slice(&fs::read(fixtures().join(name)).unwrap()).unwrap()
}

fn load(file: &str) -> Vec<records::Record> {
    let inputs: Vec<Input> = source::resolve(&fixtures().join(file).display().to_string().into()).unwrap();
    inputs
        .iter()
        .flat_map(|input| input.rows().unwrap())
        .map(|row| records::Record::parse(row.unwrap()).unwrap())
        .collect()
}

fn tokenizer(flavour: &str) -> ChatTokenizer {
    ChatTokenizer::load(fixtures().join(flavour), None).unwrap()
}

fn ids(json: &Json) -> Vec<u32> {
    serde_json::from_value(json.clone()).unwrap()
}

/// Returns the cases of `tokens.json` with that truncation: (flavour, file, limit, records).
fn cases(mode: Option<&str>) -> Vec<(String, String, Option<usize>, Vec<Json>)> {
    let text = |case: &Json, key: &str| case[key].as_str().unwrap().to_string();
    let all: Vec<_> = fixture("tokens.json")
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["truncation_mode"].as_str() == mode)
        .map(|case| {
            let limit = case["max_length"].as_u64().map(|limit| limit as usize);
            (text(case, "tokenizer"), text(case, "file"), limit, case["records"].as_array().unwrap().clone())
        })
        .collect();
    assert!(all.len() >= 2, "the fixtures have both flavours");
    all
}

#[test]
fn tokens_equal_trls() {
    for (flavour, file, _, expected) in cases(None) {
        let (tokenizer, records) = (tokenizer(&flavour), load(&file));
        assert_eq!(records.len(), expected.len(), "{flavour} {file}");
        for (record, expected) in records.iter().zip(expected) {
            let example = tokenize(&tokenizer, record).unwrap().example;
            let place = format!("{flavour} {}", record.origin);
            assert_eq!(example.prompt, ids(&expected["prompt_ids"]), "{place}");
            assert_eq!(example.completions[0], ids(&expected["chosen_ids"]), "{place}");
            assert_eq!(example.completions[1], ids(&expected["rejected_ids"]), "{place}");
        }
    }
}

/// Returns the whole sequence of a side and its completion mask, as TRL's collator gives them.
fn side(example: &Example, index: usize) -> (Vec<u32>, Vec<u32>) {
    let (prompt, completion) = (&example.prompt, &example.completions[index]);
    let mask = [vec![0; prompt.len()], vec![1; completion.len()]].concat();
    ([prompt.as_slice(), completion].concat(), mask)
}

fn truncate(flavour: &str, file: &str, limit: Option<usize>, mode: TruncationMode) -> Vec<(usize, Example)> {
    let truncation = Truncation { max_length: limit, mode, ..Truncation::default() };
    let records = load(file);
    let mut builder = Builder::default();
    let tokenizer = tokenizer(flavour);
    let ingest = Ingest {
        tokenizer: &tokenizer,
        truncation,
        vocab_size: usize::MAX,
        limit: None,
        wanted: Wanted::Whole,
    };
    let findings = ingest.records(&records, &mut builder).unwrap();
    let examples = builder.finish("").unwrap();
    assert_eq!(examples.len() + findings.dropped.count, records.len());
    examples.iter().map(Result::unwrap).map(|example| (example.origin.line - 1, example)).collect()
}

#[test]
fn keep_start_equals_trls() {
    for (flavour, file, limit, expected) in cases(Some("keep_start")) {
        let kept: BTreeMap<usize, Example> =
            truncate(&flavour, &file, limit, TruncationMode::KeepStart).into_iter().collect();
        for (index, expected) in expected.iter().enumerate() {
            assert_eq!(
                kept.contains_key(&index),
                !expected["dropped"].as_bool().unwrap(),
                "{flavour} {index}"
            );
            for (which, name) in ["chosen", "rejected"].iter().enumerate() {
                if let Some(example) = kept.get(&index) {
                    let trl = (ids(&expected[name]["input_ids"]), ids(&expected[name]["completion_mask"]));
                    assert_eq!(side(example, which), trl, "{flavour} {index} {name}");
                }
            }
        }
    }
}

/// TRL truncates each sequence of a pair separately. Here the shorter one loses as much of the prompt as the longer
/// one, so that both keep the same prompt. The longer sequence is therefore TRL's, and the shorter one a suffix of
/// TRL's.
#[test]
fn keep_end_gives_trls_longer_sequence_and_shares_its_prompt() {
    let mut unequal = 0;
    for (flavour, file, limit, expected) in cases(Some("keep_end")) {
        for (index, example) in truncate(&flavour, &file, limit, TruncationMode::KeepEnd) {
            let longer = usize::from(example.completions[1].len() > example.completions[0].len());
            for (which, name) in ["chosen", "rejected"].iter().enumerate() {
                let (ours, mask) = side(&example, which);
                let (trl, trl_mask) = (
                    ids(&expected[index][name]["input_ids"]),
                    ids(&expected[index][name]["completion_mask"]),
                );
                assert!(trl.ends_with(&ours) && trl_mask.ends_with(&mask), "{flavour} {index} {name}");
                assert!(which != longer || trl == ours, "{flavour} {index} {name}");
                unequal += usize::from(trl != ours);
            }
        }
    }
    assert!(unequal > 0, "no pair of the fixtures shows the difference");
}

#[test]
fn conversations_render_as_transformers() {
    for flavour in ["tokenizer", "tokenizer-nobos"] {
        let tokenizer = tokenizer(flavour);
        for (record, expected) in
            load("chat.jsonl").iter().zip(fixture("chat_rendered.json").as_array().unwrap())
        {
            let Content::Chat { prompt, answers, .. } = &record.content else { panic!("a conversation") };
            let [chosen, rejected] = answers.as_slice() else { panic!("a pair") };
            assert_eq!(prompt.len(), expected["prompt_messages"].as_u64().unwrap() as usize);
            let render =
                |answer: &[Message], open| tokenizer.render(&[prompt, answer].concat(), open).unwrap();
            assert_eq!(render(&[], true), expected["prompt"]);
            assert_eq!(render(chosen, false), expected["prompt_chosen"]);
            assert_eq!(render(rejected, false), expected["prompt_rejected"]);
        }
    }
}

#[test]
fn templates_render_as_transformers() {
    let fixture = fixture("templates.json");
    // 2025-03-09T17:05:00, the fixture's clock.
    assert_eq!(fixture["now"], "2025-03-09T17:05:00");
    let now = 1_741_539_900;
    let mut rendered = 0;
    for case in fixture["templates"].as_array().unwrap() {
        let template = ChatTemplate::at(case["template"].as_str().unwrap(), now).unwrap();
        let special: BTreeMap<String, String> =
            serde_json::from_value(case["special_tokens"].clone()).unwrap();
        for (index, one) in case["cases"].as_array().unwrap().iter().enumerate() {
            let place = format!("{} {index}", case["name"]);
            let fields: Vec<Map<String, Json>> = serde_json::from_value(one["messages"].clone()).unwrap();
            let messages: Vec<_> = fields.into_iter().map(Message::from_fields).collect();
            let mut kwargs = one["settings"].as_object().unwrap().clone();
            let add_generation_prompt = kwargs.remove("add_generation_prompt") == Some(Json::Bool(true));
            let tools = kwargs.remove("tools");
            let options =
                RenderOptions { add_generation_prompt, tools: tools.as_ref(), kwargs: Some(&kwargs) };
            let ours = template.render(&messages.iter().collect::<Vec<_>>(), &special, options);
            match one.get("error").and_then(Json::as_str) {
                Some(error) => assert!(ours.unwrap_err().to_string().contains(error), "{place}"),
                None => assert_eq!(ours.unwrap(), one["rendered"].as_str().unwrap(), "{place}"),
            }
            rendered += 1;
        }
    }
    assert!(rendered > 20, "{rendered}");
}

#[test]
fn the_setting_overrules_the_models_template() {
    let config =
        DataConfig { chat_template: Some("{{ messages[0].content }}".into()), ..DataConfig::new("x".into()) };
    let tokenizer =
        ChatTokenizer::load(fixtures().join("tokenizer-nobos"), config.chat_template.as_deref()).unwrap();
    assert_eq!(tokenizer.render(&[Message::new("user", "hi")], true).unwrap(), "hi");
}
