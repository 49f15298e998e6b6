//! EVA against PEFT's `initialize_lora_eva_weights` (`tests/parity/eva.py` made the numbers).

use dpo_lora::data::dataset::Builder;
use dpo_lora::data::{Dataset, Example, Kind};
use dpo_lora::model::initialisation::EvaConfig;
use dpo_lora::model::pass::Pass;
use dpo_lora::train::eva::{self, Settings};
use dpo_lora::trainable::{Lora, Policy};
use serde_json::Value;

use super::common::{decoder, examples, fixture, json};
use super::{ids, logps, numbers};

/// The examples of the fixture, with completions of at most `most` tokens.
fn data(cases: &Value, most: usize) -> Dataset {
    let like = examples("pairs.jsonl", &fixture("models/llama"))[0].clone();
    let mut builder = Builder::default();
    for case in cases["examples"].as_array().unwrap() {
        let completions = case["completions"].as_array().unwrap().iter();
        let completions = completions.map(|all| ids(all).into_iter().take(most).collect()).collect();
        let example = Example { prompt: ids(&case["prompt"]), completions, kind: Kind::PAIR, ..like.clone() };
        let record = builder.len();
        builder.push(&example, 0, record);
    }
    builder.finish("").unwrap()
}

/// The cosine of two vectors and the ratio of their lengths.
fn compared(x: &[f32], y: &[f64]) -> (f64, f64) {
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let x = f64::from(*x);
        (xy, xx, yy) = (xy + x * y, xx + x * x, yy + y * y);
    }
    (xy / (xx * yy).sqrt(), (xx / yy).sqrt())
}

#[test]
fn ranks_scales_and_components_are_pefts() {
    let cases = json("eva.json");
    let mut model = decoder("llama");
    let data = data(&cases, usize::MAX);
    for case in cases["cases"].as_array().unwrap() {
        let config: EvaConfig = serde_json::from_value(case["eva_config"].clone()).unwrap();
        let want = case["modules"].as_object().unwrap();
        let adapted = model.spec().linears().filter(|linear| want.contains_key(&linear.module));
        let loras: Vec<Lora> = adapted.map(|linear| Lora::new(linear, 4, 6.0, 1.5)).collect();
        let batch = cases["batch"].as_u64().unwrap() as usize;
        let settings = Settings { config, batch, use_rslora: false, seed: 1 };
        let (found, note) =
            eva::initialised((&model.decoder, &Policy::default()), &data, &loras, &settings).unwrap();
        assert!(note.contains("converged"), "{note}");
        assert_eq!(found.len(), want.len());
        let mut moved = 0;
        for lora in found.loras("a test").unwrap() {
            let want = &want[&lora.module];
            let number = |key: &str| want[key].as_f64().unwrap();
            let shown = (lora.rank as f64, lora.alpha, lora.scale);
            assert_eq!(shown, (number("rank"), number("alpha"), number("scale")), "{}", lora.module);
            moved += usize::from(lora.rank != 4);
            let a = found.values()[lora.a()].chunks_exact(lora.inputs);
            for (i, (row, want)) in a.zip(want["a"].as_array().unwrap()).enumerate() {
                let (near, ratio) = compared(row, &numbers(want));
                assert!(near > 0.999, "{} {i}: the cosine is {near}", lora.module);
                assert!((ratio - 1.0).abs() < 1e-3, "{} {i}: the length is {ratio} times", lora.module);
            }
            assert!(found.values()[lora.b()].iter().all(|b| *b == 0.0));
        }
        assert_eq!(moved > 0, config.rho > 1.0);

        // It is deterministic, and the policy starts as the reference.
        let again =
            eva::initialised((&model.decoder, &Policy::default()), &data, &loras, &settings).unwrap().0;
        assert_eq!(found.values(), again.values());
        model.train(found);
        let ids = [5, 9, 100, 30, 2];
        assert_eq!(logps(&model, &ids, Pass::Policy), logps(&model, &ids, Pass::Reference));
        model.policy = Policy::default();
    }
}

#[test]
fn batches_that_are_too_small_and_ranks_that_are_too_high_are_refused() {
    let (cases, model) = (json("eva.json"), decoder("llama"));
    let data = data(&cases, 5);
    let refused = |rank: usize, config: EvaConfig| {
        let linears = model.spec().linears();
        let loras: Vec<Lora> = linears.map(|linear| Lora::new(linear, rank, 6.0, 1.5)).collect();
        let settings = Settings { config, batch: 1, use_rslora: false, seed: 1 };
        eva::initialised((&model.decoder, &Policy::default()), &data, &loras, &settings)
            .unwrap_err()
            .to_string()
    };
    let error = refused(4, EvaConfig { rho: 9.0, ..EvaConfig::default() });
    assert!(error.contains("lower rho"), "{error}");
    // Two completions of five tokens have eight rows that are computed.
    let error = refused(5, EvaConfig::default());
    assert!(error.contains("the 10 tokens") && error.contains("per_device_train_batch_size"), "{error}");
}
