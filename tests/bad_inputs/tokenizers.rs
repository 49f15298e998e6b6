//! Invalid tokenizers and chat templates.

use serde_json::json;

use super::{refused, train_refused};
use crate::common::fixture;
use crate::common::program::Place;

fn copy_of_llama(pairs: &str) -> Place {
    let place = Place::new();
    place.model("llama");
    place.recipe("model".as_ref(), &fixture(pairs), &[("data.format", json!("mixed"))]);
    place
}

#[test]
fn a_tokenizer_of_another_model() {
    let place = copy_of_llama("pairs.jsonl");
    let last = "</odd>";
    place.edit("model/tokenizer.json", |t| {
        let added = t["added_tokens"].as_array_mut().unwrap();
        let mut token = added[0].clone();
        token["id"] = json!(4000);
        token["content"] = json!(last);
        added.push(token);
    });
    place.write("odd.jsonl", format!(r#"{{"prompt": "a {last}", "chosen": "b", "rejected": "c"}}"#));
    place.recipe("model".as_ref(), "odd.jsonl".as_ref(), &[]);
    train_refused(&place, 1, &["odd.jsonl:1", "does not exist in the model", "320", "another model"]);
}

#[test]
fn broken_tokenizers() {
    let place = copy_of_llama("pairs.jsonl");
    for text in ["", "{", "{\"model\": {\"type\": \"BPE\"}}", "[]", "{\"version\": \"1.0\"}"] {
        place.write("model/tokenizer.json", text);
        train_refused(&place, 1, &["tokenizer.json"]);
    }
    std::fs::remove_file(place.path("model/tokenizer.json")).unwrap();
    train_refused(&place, 1, &["no tokenizer in model", "save_pretrained"]);
    let place = copy_of_llama("pairs.jsonl");
    place.write("model/tokenizer_config.json", "{\"eos_token\": ");
    train_refused(&place, 1, &["tokenizer_config.json", "not valid JSON"]);
    place.write("model/tokenizer_config.json", "{\"eos_token\": \"<none>\"}");
    // As in transformers the token is added, but the model has no embedding for it.
    train_refused(&place, 1, &["pairs.jsonl:1", "<none>", "does not exist in the model"]);
}

/// The library's parser of decoders panics on this file (found by fuzzing). Even the panic's own message is not
/// printed.
#[test]
fn a_tokenizer_that_its_library_does_not_survive() {
    let place = copy_of_llama("pairs.jsonl");
    place.edit("model/tokenizer.json", |t| t["decoder"] = json!({"type": "Fuse"}));
    let whole = String::from_utf8(place.read("model/tokenizer.json")).unwrap();
    let broken = whole.replace(r#""decoder":{"type":"Fuse"}"#, r#""decoder":{"type":"Fuse" 3}"#);
    assert_ne!(broken, whole);
    place.write("model/tokenizer.json", broken);
    train_refused(&place, 1, &["the tokenizer in model: tokenizer.json is damaged"]);
    let args = ["generate", "--base", "model", "--prompt", "x"];
    let told = refused(&place, &args, 1, &["the tokenizer in model: tokenizer.json is damaged"]);
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn conversations_without_a_template() {
    let place = copy_of_llama("chat.jsonl");
    place.edit("model/tokenizer_config.json", |c| drop(c.as_object_mut().unwrap().remove("chat_template")));
    train_refused(&place, 1, &["chat.jsonl:1", "chat template", "data.chat_template"]);
    let args = ["generate", "--base", "model", "--chat", "--prompt", "x"];
    refused(&place, &args, 1, &["chat template"]);
}

#[test]
fn broken_templates() {
    let place = copy_of_llama("chat.jsonl");
    for (template, part) in [
        ("{% for m in messages %}{{ m.content }}", "not valid Jinja"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].nothing.at_all }}", "chat.jsonl:1"),
        ("{% for i in range(1000000000) %}{{ i }}{% endfor %}", "chat.jsonl:1"),
    ] {
        place.edit("model/tokenizer_config.json", |c| c["chat_template"] = json!(template));
        train_refused(&place, 1, &[part]);
    }
    place.edit("model/tokenizer_config.json", |c| c["chat_template"] = json!(17));
    train_refused(&place, 1, &["chat_template"]);
}
