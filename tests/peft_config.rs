//! `adapter_config.json` key by key compared with PEFT (`tests/parity/peft_config.py`): the program computes what PEFT
//! computes under a setting, or refuses the setting.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::program::{Place, copy};
use common::{decoder, fixture};
use dpo_lora::adapter::peft::{self, PeftConfig};
use dpo_lora::data::{Example, Origin, PackedBatch};
use dpo_lora::model::pass::Pass;
use serde_json::{Map, Value, json};

fn measured() -> Value {
    common::json("peft_lora_config.json")
}

/// The adapter `plain` of the tiny Llama with a setting.
fn adapter(place: &Place, setting: &Map<String, Value>) -> std::path::PathBuf {
    let to = place.path("adapter");
    let _ = std::fs::remove_dir_all(&to);
    copy(&fixture("models/llama/adapters/plain"), &to);
    place.edit("adapter/adapter_config.json", |config| {
        setting.iter().for_each(|(key, value)| config[key.as_str()] = value.clone());
    });
    to
}

/// Returns the summed log-prob that this program computes for the measured ids.
fn logp(directory: &Path, ids: &[u32]) -> dpo_lora::error::Result<f64> {
    let mut decoder = decoder("llama");
    decoder.train(peft::read(directory, decoder.spec())?.adapters);
    let example = Example {
        prompt: ids[..1].to_vec(),
        completions: vec![ids[1..].to_vec()],
        kind: dpo_lora::data::Kind::PAIR,
        origin: Origin::new("ids", 1),
    };
    Ok(decoder.logps(&PackedBatch::new(&[&example]), Pass::Policy).unwrap()[0])
}

/// Settings that are refused although PEFT computes the same with this file: PEFT ignores them here (a bias that the
/// file lacks, a task, a key of another version), or they belong to files that contain more than low-rank matrices.
const REFUSED_ALL_THE_SAME: &[&str] = &[
    r#"{"alpha_pattern":{"base_model.model.model.layers.1.self_attn.q_proj":3}}"#,
    r#"{"bias":"all"}"#,
    r#"{"bias":"lora_only"}"#,
    r#"{"lora_bias":true}"#,
    // After training it is an ordinary adapter, but its file also contains the sampler.
    r#"{"monteclora_config":{}}"#,
    r#"{"task_type":"SEQ_CLS"}"#,
    r#"{"use_qalora":true}"#,
    r#"{"velora_config":{"num_groups":4}}"#,
    r#"{"a_key_of_the_future":true}"#,
    // PEFT subtracted its product from the base when training began, and does not do so again.
    r#"{"init_lora_weights":"lora_ga"}"#,
];

#[test]
fn every_setting_computes_what_peft_computes_or_is_refused() {
    let measured = measured();
    let ids: Vec<u32> = serde_json::from_value(measured["ids"].clone()).unwrap();
    let (plain, bare) = (measured["plain"].as_f64().unwrap(), measured["bare"].as_f64().unwrap());
    assert!((plain - bare).abs() > 0.5, "the adapter does nothing");
    let place = Place::new();
    let (mut same, mut refused) = (0, 0);
    for case in measured["cases"].as_array().unwrap() {
        let setting = case["setting"].as_object().unwrap();
        let said = Value::Object(setting.clone()).to_string();
        let theirs = case["logp"].as_f64();
        let all_the_same = REFUSED_ALL_THE_SAME.contains(&said.as_str());
        match logp(&adapter(&place, setting), &ids) {
            Ok(ours) => {
                let theirs =
                    theirs.unwrap_or_else(|| panic!("{said} is read, and PEFT says {}", case["error"]));
                assert!((ours - theirs).abs() < 1e-3, "{said}: {ours} for {theirs}");
                assert!(!all_the_same, "{said} is read");
                same += 1;
            }
            Err(error) => {
                let as_plain = theirs.is_some_and(|theirs| (theirs - plain).abs() < 1e-6);
                assert!(!as_plain || all_the_same, "{said} changes nothing and is refused: {error}");
                let key = setting.keys().next().unwrap();
                let words = error.to_string();
                assert!(words.contains(key.as_str()) || words.contains("target_modules"), "{said}: {words}");
                refused += 1;
            }
        }
    }
    assert!(same > 25 && refused > 25, "{same} {refused}");
}

/// If a new version of PEFT has another field, `tests/parity/peft_config.py --write` gives another fixture and this
/// test fails.
#[test]
fn every_field_of_peft_is_known_and_its_default_switches_nothing_on() {
    let defaults = measured()["defaults"].as_object().unwrap().clone();
    assert!(defaults.len() >= 40);
    let place = Place::new();
    for (key, value) in &defaults {
        // PEFT fills in these two before it writes them.
        let value = match key.as_str() {
            "peft_type" => json!("LORA"),
            "target_modules" => json!("all-linear"),
            _ => value.clone(),
        };
        let directory = adapter(&place, &[(key.clone(), value)].into_iter().collect());
        let config = PeftConfig::open(&directory).unwrap_or_else(|e| panic!("{key}: {e}"));
        assert!(config.notes.is_empty(), "{key}: {:?}", config.notes);
        if value_is_switch(&defaults[key]) {
            let on = [(key.clone(), json!({"on": [1]}))].into_iter().collect();
            let harmless = [
                "auto_mapping",
                "corda_config",
                "eva_config",
                "lora_ga_config",
                "revision",
                "base_model_name_or_path",
                // It is read, and the file must have the rows.
                "trainable_token_indices",
            ];
            assert!(
                PeftConfig::open(&adapter(&place, &on)).is_err() || harmless.contains(&key.as_str()),
                "{key} is switched on and nobody minds"
            );
        }
    }
}

/// A field that is null by default contains a configuration, a list or a name when it is set.
fn value_is_switch(default: &Value) -> bool {
    default.is_null()
}

#[test]
fn initialisations_are_refused_if_and_only_if_they_change_the_base() {
    let place = Place::new();
    let inits = measured()["changes_base"].as_object().unwrap().clone();
    assert!(inits.len() >= 10);
    for (init, changes) in inits {
        let changes = changes.as_bool().unwrap();
        for name in [init.clone(), init.to_uppercase()].iter().take(if changes { 2 } else { 1 }) {
            let setting = [("init_lora_weights".to_string(), json!(name))].into_iter().collect();
            let opened = PeftConfig::open(&adapter(&place, &setting));
            assert_eq!(opened.is_err(), changes, "{name}");
        }
    }
}

#[test]
fn what_the_file_lacks_and_what_is_not_named() {
    let (place, mut spec) = (Place::new(), decoder("llama").spec().clone());
    let read = |setting: Value, spec: &_| {
        let directory = adapter(&place, setting.as_object().unwrap());
        peft::read(&directory, spec)
    };
    // PEFT also ignores a key that names nothing; it is reported.
    let notes = read(json!({"alpha_pattern": {"k_prj": 3}}), &spec).unwrap().notes;
    assert!(notes.len() == 1 && notes[0].contains("alpha_pattern.k_prj"), "{notes:?}");
    // A module that the configuration names and the file lacks keeps the base's weights, unless PEFT initialises it
    // randomly.
    spec.layers.push(spec.layers[0].clone());
    let renamed = "model.layers.9.self_attn.o_proj";
    spec.layers.last_mut().unwrap().attention.output.module = renamed.into();
    let notes = read(json!({}), &spec).unwrap().notes;
    assert!(notes.len() == 1 && notes[0].contains(renamed), "{notes:?}");
    for init in [json!(false), json!("orthogonal")] {
        let error = read(json!({"init_lora_weights": init}), &spec).unwrap_err().to_string();
        assert!(error.contains("random") && error.contains(renamed), "{error}");
    }
}
