//! DoRA compared with PEFT: adapters that PEFT wrote, adapters that PEFT loads, gradients and merges.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{adapt, assert_near, decoder, fixture, ids, json, load, logps, numbers, pack};
use dpo_lora::adapter::merge::{self, MergeOptions};
use dpo_lora::adapter::peft::{self, Origin};
use dpo_lora::data::{Example, Kind};
use dpo_lora::model::decoder::{Decoder, Training};
use dpo_lora::model::pass::Pass;
use dpo_lora::random::Stream;
use dpo_lora::trainable::{Adapter, Adapters, Dora, Lora};
use dpo_lora::weights::{DType, SafetensorsSource};

#[test]
fn adapters_of_peft_have_its_log_probs_and_its_gradients() {
    let expected = json("dora/expected.json");
    for (name, case) in expected.as_object().unwrap() {
        let mut model = decoder(name);
        adapt(&mut model, &fixture("dora").join(name));
        let (ids, want) = (ids(&case["ids"]), numbers(&case["logps"]));
        assert_near(&logps(&model, &ids, Pass::Policy), &want, 1e-5, name);
        let base = logps(&model, &ids, Pass::Reference);
        let apart: f64 = base.iter().zip(&want).map(|(a, b)| (a - b).abs()).sum();
        assert!(apart > 0.1, "{name}: the adapter changes something");

        let mut example = common::examples("pairs.jsonl", &fixture("models").join(name))[0].clone();
        example = Example {
            prompt: ids[..1].to_vec(),
            completions: vec![ids[1..].to_vec(), vec![3, 4]],
            kind: Kind::PAIR,
            ..example
        };
        let batch = pack(&[example]);
        let (sums, tape) = model.forward(&batch, Training::default()).unwrap();
        assert!((sums[0] - want.iter().sum::<f64>()).abs() < 5e-5, "{name}: {}", sums[0]);
        let gradient = model.gradient(tape, &batch, &[1.0, 0.0]);
        let of_peft = case["gradient"].as_object().unwrap();
        let entries = model.trained().store().entries();
        assert_eq!(entries.len(), of_peft.len(), "{name}");
        for entry in entries {
            let norm =
                gradient[entry.range.clone()].iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let want = of_peft[&entry.name].as_f64().unwrap();
            assert!(
                (norm - want).abs() <= 1e-4 * want + 1e-6,
                "{name} {}: {norm} against {want}",
                entry.name
            );
        }
    }
}

/// Returns an adapter of every module of `models/llama`, with random numbers from a seed.
fn drawn(decoder: &Decoder) -> Adapters {
    let of = |(i, linear)| Dora::new(Lora::new(linear, 2 + i % 3, 5.0, 5.0 / (2 + i % 3) as f64));
    let modules = decoder.spec().linears().enumerate().map(of);
    let mut set = Adapters::initialised_on(modules, 3, |module| decoder.linear(module)).unwrap();
    let stream = Stream::new(3, "a DoRA of a test");
    let entries = set.store().entries().to_vec();
    set.update(|values| {
        for entry in &entries {
            for i in entry.range.clone() {
                let draw = stream.uniform(i as u64);
                if entry.name.ends_with("lora_B.weight") {
                    values[i] = 0.4 * draw - 0.2;
                } else if entry.name.ends_with("magnitude_vector") {
                    values[i] *= 0.7 + 0.6 * draw;
                }
            }
        }
    });
    set
}

/// With `DORA_OUT=DIRECTORY` the adapter is kept there, for `tests/parity/dora.py tests/fixtures --check DIRECTORY`,
/// whose output is `dora/ours.json`.
#[test]
fn peft_loads_what_is_written_with_the_same_log_probs() {
    let mut model = decoder("llama");
    model.train(drawn(&model));
    let place = tempfile::tempdir().unwrap();
    let directory = std::env::var("DORA_OUT").map_or(place.path().to_path_buf(), Into::into);
    peft::write(&directory, model.trained(), model.spec(), 0.0, &Origin::default()).unwrap();
    let back = peft::read(&directory, model.spec()).unwrap().adapters;
    assert_eq!(back.values(), model.trained().values());
    assert!(back.iter().eq(model.trained().iter()), "kinds, ranks and scales");
    let want = json("dora/ours.json");
    assert_near(&logps(&model, &ids(&want["ids"]), Pass::Policy), &numbers(&want["logps"]), 1e-5, "PEFT's");
}

#[test]
fn a_merged_model_computes_the_same() {
    for name in ["llama", "gpt2"] {
        let mut model = decoder(name);
        let directory = fixture("models").join(name);
        adapt(&mut model, &fixture("dora").join(name));
        let source = SafetensorsSource::open(&directory).unwrap();
        let base = merge::Base { directory: &directory, source: &source, spec: model.spec() };
        let place = tempfile::tempdir().unwrap();
        let output = place.path().join("merged");
        let options = MergeOptions { dtype: Some(DType::F32), ..MergeOptions::default() };
        merge::merge(&base, &[(model.trained(), 1.0)], &output, &options).unwrap();
        let ids = ids(&json("dora/expected.json")[name]["ids"]);
        let merged = logps(&load(&output, DType::F32), &ids, Pass::Policy);
        assert_near(&merged, &logps(&model, &ids, Pass::Policy), 1e-5, name);
    }
}

#[test]
fn files_that_lack_or_add_a_magnitude_are_refused() {
    let model = decoder("llama");
    let from = fixture("dora/llama");
    let changed = |setting: bool, weights: &Path| {
        let place = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(from.join(peft::CONFIG)).unwrap();
        let text = text.replace("\"use_dora\": true", &format!("\"use_dora\": {setting}"));
        std::fs::write(place.path().join(peft::CONFIG), text).unwrap();
        std::fs::copy(weights, place.path().join(peft::WEIGHTS)).unwrap();
        peft::read(place.path(), model.spec()).map(|found| found.adapters)
    };
    let error = changed(false, &from.join(peft::WEIGHTS)).unwrap_err().to_string();
    assert!(error.contains("use_dora: true") && error.contains("lora_magnitude_vector"), "{error}");
    assert!(changed(true, &from.join(peft::WEIGHTS)).is_ok());
}

#[test]
fn what_knows_lora_alone_names_the_remedy() {
    let mut model = decoder("llama");
    adapt(&mut model, &fixture("dora/llama"));
    assert!(model.trained().iter().all(|adapter| matches!(adapter, Adapter::Dora(_))));
    let error = model.trained().loras("a GGUF adapter").unwrap_err().to_string();
    assert!(error.contains("DoRA") && error.contains("dpo-lora merge"), "{error}");
}
