//! Token ids compared with TRL's: tokenizers of every kind × chat templates × conversations, and texts without a
//! template (`fixtures/token_matrix.py`; we wrote all texts and templates).
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use dpo_lora::data::{ChatTokenizer, Content, Example, RenderOptions, records, source, tokenize};
use serde::Deserialize;
use serde_json::Value as Json;

/// Intended differences from TRL's tokens, for records of strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fixed {
    /// TRL appends the EOS token to each answer, and a tokenizer that ends every text with EOS appends another one. A
    /// model would be trained to write two.
    SecondEos,
    /// A tokenizer that puts BOS before every text also puts it before a prompt that already begins with BOS. The model
    /// has never seen two.
    SecondBos,
}

/// The tokenizers and the texts (all, or one by name) with each difference. Nothing else may differ.
const FIXED: &[(&[&str], Option<&str>, Fixed)] = &[
    (&["t5", "wordpiece"], None, Fixed::SecondEos),
    (&["llama2", "mistral", "phi3"], Some("a begin token in the prompt"), Fixed::SecondBos),
];

/// Templates and records whose prompt, rendered alone, is not the beginning of the conversation: a generation prompt
/// that opens a thought, and a system text that moves to the last user message. TRL moves the border to where they
/// diverge.
const PARTING: [(&str, &str); 2] = [("deepseek", "reasoning"), ("mistral", "answers of several turns")];

#[derive(Deserialize)]
struct Fixture {
    /// The digests of the records by tokenizer and template (or `texts`), or `error`, separated by spaces.
    digests: BTreeMap<String, BTreeMap<String, String>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/token_matrix")
}

fn fixture() -> Fixture {
    serde_json::from_slice(&fs::read(folder().join("digests.json")).unwrap()).unwrap()
}

/// The records of a file and their names.
fn load(file: &str) -> Vec<(String, records::Record)> {
    let file = folder().join(file);
    let text = fs::read_to_string(&file).unwrap();
    let names = text.lines().map(|line| {
        let row: Json = serde_json::from_str(line).unwrap();
        row["name"].as_str().unwrap().to_owned()
    });
    let inputs = source::resolve(&file.display().to_string().into()).unwrap();
    let rows = inputs.iter().flat_map(|input| input.rows().unwrap());
    let records: Vec<_> = rows.map(|row| records::Record::parse(row.unwrap()).unwrap()).collect();
    assert_eq!(records.len(), names.clone().count());
    names.zip(records).collect()
}

fn tokenizer(name: &str, template: Option<&str>) -> ChatTokenizer {
    let source = template.map(|template| {
        fs::read_to_string(folder().join("templates").join(format!("{template}.jinja"))).unwrap()
    });
    ChatTokenizer::load(folder().join("tokenizers").join(name), source.as_deref()).unwrap()
}

/// The script's digest: SHA-256 of prompt, chosen and rejected, each as its length and its ids in little-endian u32.
fn digest(example: &Example) -> String {
    let mut bytes = Vec::new();
    for ids in [&example.prompt, &example.completions[0], &example.completions[1]] {
        bytes.extend((ids.len() as u32).to_le_bytes());
        bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    }
    let hash = ring::digest::digest(&ring::digest::SHA256, &bytes);
    hash.as_ref()[..4].iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The figures that help to find a difference of tokens.
fn difference(tokenizer: &ChatTokenizer, place: &str, found: &Example) -> String {
    let tokens = |ids: &[u32]| {
        let tokens = ids.iter().map(|id| format!("{id} {:?}", tokenizer.token(*id).unwrap_or_default()));
        tokens.collect::<Vec<_>>().join(", ")
    };
    format!(
        "{place} (TRL's tokens: token_matrix.py --show ...)\n  prompt: {}\n  chosen: {}\n  rejected: {}",
        tokens(&found.prompt),
        tokens(&found.completions[0]),
        tokens(&found.completions[1])
    )
}

/// Pairs on which TRL trains although their answers have the same tokens; this program refuses them. The template qwen3
/// writes only texts and no parts; the tokenizer t5 composes marks; wordpiece has one token for all long words.
const EQUAL: [(&str, &str); 3] =
    [("qwen3", "text parts"), ("t5", "combining marks"), ("wordpiece", "a very long word")];

fn is_equal(tokenizer: &str, template: &str, record: &str) -> bool {
    [tokenizer, template].iter().any(|cause| EQUAL.contains(&(*cause, record)))
}

/// Compares every record's tokens with its digest, and describes the differences.
fn compare(name: &str, template: &str, records: &[(String, records::Record)], digests: &str) -> Vec<String> {
    let tokenizer = tokenizer(name, Some(template));
    assert_eq!(digests.split(' ').count(), records.len(), "{name} {template}");
    let mut wrong = Vec::new();
    for ((record_name, record), expected) in records.iter().zip(digests.split(' ')) {
        let place = format!("{name} {template} {record_name:?}");
        match tokenize(&tokenizer, record).map(|tokenized| tokenized.example) {
            Ok(example) if expected == "error" => {
                wrong.push(difference(&tokenizer, &format!("{place}: TRL refuses it"), &example));
            }
            Err(error) if expected != "error" && is_equal(name, template, record_name) => {
                let message = error.to_string();
                assert!(message.contains("are equal once they are rendered"), "{place}: {message}");
            }
            Err(error) if expected != "error" => {
                wrong.push(format!("{place}: TRL has tokens, here it is refused: {error}"));
            }
            Ok(example) if digest(&example) != expected => {
                wrong.push(difference(&tokenizer, &place, &example))
            }
            Ok(_) | Err(_) => {}
        }
    }
    wrong
}

#[test]
fn conversations_have_trls_tokens() {
    let (fixture, records) = (fixture(), load("conversations.jsonl"));
    assert!(fixture.digests.len() >= 12 && records.len() >= 30);
    let (mut all, mut refused, mut wrong) = (0, 0, Vec::new());
    for (name, by_template) in &fixture.digests {
        let templates = by_template.iter().filter(|(template, _)| *template != "texts");
        assert!(templates.clone().count() >= 8, "{name}");
        for (template, digests) in templates {
            all += records.len();
            refused += digests.split(' ').filter(|digest| *digest == "error").count();
            wrong.extend(compare(name, template, &records, digests));
        }
    }
    println!("{all} conversations, of which TRL refuses {refused}");
    assert!(refused * 10 < all, "{refused} of {all} are refused");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

/// Returns the example as TRL has it, with the token that is dropped here.
fn as_trl(tokenizer: &ChatTokenizer, mut example: Example, fixed: Fixed) -> Example {
    match fixed {
        Fixed::SecondEos => {
            let eos = tokenizer.eos_id().unwrap();
            example.completions.iter_mut().for_each(|completion| completion.push(eos));
        }
        Fixed::SecondBos => example.prompt.insert(0, tokenizer.bos_id().unwrap()),
    }
    example
}

#[test]
fn texts_have_trls_tokens_but_for_the_listed_differences() {
    let records = load("texts.jsonl");
    let (mut seen, mut wrong) = (BTreeSet::new(), Vec::new());
    for (name, by_template) in &fixture().digests {
        let tokenizer = tokenizer(name, None);
        let digests: Vec<&str> = by_template["texts"].split(' ').collect();
        assert_eq!(digests.len(), records.len(), "{name}");
        for ((record_name, record), expected) in records.iter().zip(digests) {
            let place = format!("{name} texts {record_name:?}");
            let example = tokenize(&tokenizer, record).unwrap().example;
            let fixed = FIXED.iter().find(|(tokenizers, record, _)| {
                tokenizers.contains(&name.as_str()) && record.is_none_or(|record| record == record_name)
            });
            let Some((.., fixed)) = fixed else {
                if digest(&example) != expected {
                    wrong.push(difference(&tokenizer, &place, &example));
                }
                continue;
            };
            seen.insert(*fixed);
            if digest(&example) == expected {
                wrong.push(format!("{place} equals TRL's, without the difference {fixed:?} that is listed"));
            }
            let theirs = as_trl(&tokenizer, example, *fixed);
            if digest(&theirs) != expected {
                wrong.push(difference(&tokenizer, &format!("{place}, with {fixed:?}"), &theirs));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert_eq!(seen.len(), 2, "every listed difference is seen");
}

/// The matrix contains prompts that are not a prefix of the rendered conversation, for which TRL's rule for the border
/// decides.
#[test]
fn some_prompts_part_from_the_conversation_before_their_end() {
    let (fixture, records) = (fixture(), load("conversations.jsonl"));
    for (template, wanted) in PARTING {
        let (_, record) = records.iter().find(|(name, _)| name == wanted).unwrap();
        let Content::Chat { prompt, tools, kwargs, .. } = &record.content else { panic!("{wanted}") };
        let messages: Vec<_> = prompt.iter().collect();
        let options =
            RenderOptions { add_generation_prompt: true, tools: tools.as_ref(), kwargs: kwargs.as_ref() };
        for name in fixture.digests.keys() {
            let tokenizer = tokenizer(name, Some(template));
            let alone = tokenizer.encode(&tokenizer.render_with(&messages, options).unwrap(), false).unwrap();
            let shared = tokenize(&tokenizer, record).unwrap().example.prompt;
            assert!(shared.len() < alone.len() && alone.starts_with(&shared), "{name} {template} {wanted}");
        }
    }
}
