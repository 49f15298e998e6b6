//! Twelve steps of TRL's trainers, repeated from TRL's own initial adapter (`tests/parity/trl_runs.py` and
//! `trl_objectives.py`).
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::program::Place;
use common::{Model, decoder, fixture, freeze, json};
use dpo_lora::adapter::peft;
use dpo_lora::data::truncate::Outcome;
use dpo_lora::data::{PackedBatch, Truncation};
use dpo_lora::device::Backend;
use dpo_lora::objective::{Objective, ObjectiveConfig, Sigmoid};
use dpo_lora::random::Stream;
use dpo_lora::ranks::ALONE;
use dpo_lora::train::config::TrainConfig;
use dpo_lora::train::optimizer::Optimizer;
use dpo_lora::train::reference::ReferenceCache;
use dpo_lora::train::step::{self, Settings};

fn close(got: f64, want: f64, what: &str) {
    let scale = want.abs().max(1e-3);
    assert!((got - want).abs() <= 1e-3 * scale, "{what}: {got} against {want}");
}

fn follow(run: &str, recompute: bool) {
    follow_on(run, recompute, None);
}

fn follow_on(run: &str, recompute: bool, device: Option<Arc<dyn Backend>>) {
    let expected = json(&format!("trl/{run}/expected.json"));
    let (settings, number) = (&expected["config"], |key: &str| expected["config"][key].as_f64().unwrap());
    let model = expected["model"].as_str().unwrap();
    let mut decoder = decoder(model);
    decoder.place_on(device);
    let initial = fixture(&format!("trl/{run}/init"));
    decoder.train(peft::read(&initial, decoder.spec()).unwrap().adapters);
    if run == "llama-init" {
        // TRL's reference for an adapter that is trained further is a frozen copy of its initial state.
        freeze(&mut decoder, &initial, true);
    }
    let examples = common::examples("trl/train.jsonl", &fixture("models").join(model));
    let objective = Objective::new(Sigmoid {
        beta: number("beta"),
        label_smoothing: expected["label_smoothing"].as_f64().unwrap(),
        ..Sigmoid::default()
    });
    let steps = expected["steps"].as_array().unwrap();
    let config = TrainConfig {
        learning_rate: number("learning_rate"),
        weight_decay: number("weight_decay"),
        warmup_steps: number("warmup_steps") as u64,
        max_grad_norm: number("max_grad_norm"),
        ..TrainConfig::default()
    };
    let schedule = config.schedule(steps.len() as u64);
    let Model { decoder, mut policy } = decoder;
    let mut optimizer = Optimizer::new(&config.optimizer(), policy.trained.store_mut());
    let mut reference = ReferenceCache::in_memory();
    let batch = settings["per_device_train_batch_size"].as_u64().unwrap() as usize;
    let accumulation = settings["gradient_accumulation_steps"].as_u64().unwrap() as usize;
    let mut micro_batches = examples.chunks(batch);
    for (i, want) in steps.iter().enumerate() {
        let batches: Vec<PackedBatch> = micro_batches
            .by_ref()
            .take(accumulation)
            .map(|examples| PackedBatch::new(&examples.iter().collect::<Vec<_>>()))
            .collect();
        let settings = Settings {
            objective: &objective,
            learning_rate: schedule.lr(i as u64),
            clip_norm: config.clip_norm(),
            dropout: 0.0,
            stream: Stream::new(0, "unused"),
            recompute,
            noise: None,
            ranks: &ALONE,
            cards: None,
        };
        let got =
            step::run(&decoder, &mut policy, &mut optimizer, &mut reference, &batches, &settings).unwrap();
        close(schedule.lr(i as u64), want["learning_rate_used"].as_f64().unwrap(), "learning rate");
        close(got.grad_norm, want["grad_norm"].as_f64().unwrap(), &format!("{run} step {i} grad_norm"));
        for (name, value) in got.metrics.means() {
            close(value, want[name].as_f64().unwrap(), &format!("{run} step {i} {name}"));
        }
        if i == 0 {
            // Both sides have the same bits.
            let means = got.metrics.means();
            assert!(
                means.iter().filter(|(n, _)| n.starts_with("rewards/")).all(|(_, v)| *v == 0.0),
                "{means:?}"
            );
        }
    }
    let last = peft::read(&fixture(&format!("trl/{run}/final")), decoder.spec()).unwrap().adapters;
    let first = peft::read(&initial, decoder.spec()).unwrap().adapters;
    decoder.fetch(&mut policy).unwrap();
    let trained = &policy.trained;
    let apart = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    assert!(apart(trained.values(), last.values()) < 5e-5, "{}", apart(trained.values(), last.values()));
    assert!(apart(first.values(), last.values()) > 1e-2, "TRL's run moved nothing");
}

/// What TRL logged of a step, except the gradient and the learning rate.
fn expected_figures(step: &serde_json::Value) -> impl Iterator<Item = (&str, f64)> {
    let fields = step.as_object().unwrap().iter();
    fields
        .filter(|(name, _)| !["grad_norm", "learning_rate_used"].contains(&name.as_str()))
        .map(|(name, value)| (name.as_str(), value.as_f64().unwrap()))
}

/// Repeats a run of `tests/parity/trl_objectives.py`, and returns the cache of reference log-probs after it.
fn follow_objective(run: &str) -> ReferenceCache {
    let expected = json(&format!("trl/{run}/expected.json"));
    let number = |key: &str| expected["config"][key].as_f64().unwrap();
    let model = expected["model"].as_str().unwrap();
    let mut decoder = decoder(model);
    let initial = fixture(expected["init"].as_str().unwrap());
    decoder.train(peft::read(&initial, decoder.spec()).unwrap().adapters);
    let data = expected["data"].as_str().unwrap();
    let limit = Truncation { max_length: Some(number("max_length") as usize), ..Truncation::default() };
    let mut examples = common::examples(data, &fixture("models").join(model));
    for example in &mut examples {
        if run == "tpo-alone" {
            // Without a weight nothing reads the gold answer.
            example.completions.truncate(2);
        }
        let outcome = limit.apply(example, None);
        assert!(!matches!(outcome, Outcome::Dropped(_)), "{outcome:?}");
    }
    let section = serde_json::to_string(&expected["objective"]).unwrap();
    let objective = serde_yaml::from_str::<ObjectiveConfig>(&section).unwrap().resolve().unwrap();
    let config = TrainConfig {
        learning_rate: number("learning_rate"),
        weight_decay: number("weight_decay"),
        warmup_steps: number("warmup_steps") as u64,
        max_grad_norm: number("max_grad_norm"),
        ..TrainConfig::default()
    };
    let steps = expected["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 12);
    let schedule = config.schedule(steps.len() as u64);
    let Model { decoder, mut policy } = decoder;
    let mut optimizer = Optimizer::new(&config.optimizer(), policy.trained.store_mut());
    let mut reference = ReferenceCache::in_memory();
    let mut micro_batches = examples.chunks(number("per_device_train_batch_size") as usize);
    for (i, want) in steps.iter().enumerate() {
        let batches: Vec<PackedBatch> = micro_batches
            .by_ref()
            .take(number("gradient_accumulation_steps") as usize)
            .map(|part| {
                PackedBatch::for_objective(&part.iter().collect::<Vec<_>>(), objective.needs(), limit)
            })
            .collect();
        let settings = Settings {
            objective: &objective,
            learning_rate: schedule.lr(i as u64),
            clip_norm: config.clip_norm(),
            dropout: 0.0,
            stream: Stream::new(0, "unused"),
            recompute: false,
            noise: None,
            ranks: &ALONE,
            cards: None,
        };
        let got =
            step::run(&decoder, &mut policy, &mut optimizer, &mut reference, &batches, &settings).unwrap();
        assert!(got.skipped.is_none(), "{:?}", got.skipped);
        close(got.grad_norm, want["grad_norm"].as_f64().unwrap(), &format!("{run} step {i} grad_norm"));
        let means = got.metrics.means();
        for (name, value) in expected_figures(want) {
            // TRL logs these as 0 if its loss does not compute them.
            if value == 0.0 && ["kl", "nll_loss"].contains(&name) {
                continue;
            }
            let found = means.iter().find(|(ours, _)| *ours == name);
            let (_, found) = found.unwrap_or_else(|| panic!("{run} step {i} has no {name}: {means:?}"));
            close(*found, value, &format!("{run} step {i} {name}"));
        }
    }
    reference
}

#[test]
fn losses_of_pairs() {
    for run in ["ipo", "apo-zero", "sigmoid-sft", "aot"] {
        // 48 pairs, each once.
        assert_eq!(follow_objective(run).computed, 48, "{run}");
    }
}

#[test]
fn losses_without_a_reference_make_no_reference_pass() {
    for run in
        ["cpo", "simpo", "cpo-simpo", "orpo", "tpo", "tpo-l", "tpo-alone", "sft", "sft-text", "sft-messages"]
    {
        let reference = follow_objective(run);
        assert_eq!((reference.computed, reference.found), (0, 0), "{run}");
    }
}

#[test]
fn losses_of_judged_answers() {
    // 48 answers, and as many prompts with the answers of others.
    assert_eq!(follow_objective("kto").computed, 96);
    assert_eq!(follow_objective("kto-lengths").computed, 96);
    assert_eq!(follow_objective("apo-zero-unpaired").computed, 48);
}

/// Prompts with the answers of other records are longer than any record, and are cut at `data.max_length` alone.
#[test]
fn kto_by_the_program_on_records_of_different_lengths() {
    let expected = json("trl/kto-lengths/expected.json");
    let config = &expected["config"];
    let mut train = serde_json::json!({"logging_steps": 1, "shuffle": false, "sample_prompts": 0});
    for key in [
        "max_steps",
        "per_device_train_batch_size",
        "learning_rate",
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
        "max_grad_norm",
    ] {
        train[key] = config[key].clone();
    }
    let run = serde_json::json!({
        "output_dir": "run",
        "model": {"base": fixture("models").join(expected["model"].as_str().unwrap())},
        "lora": {"init_from": fixture(expected["init"].as_str().unwrap())},
        "data": {"train": fixture(expected["data"].as_str().unwrap()), "max_length": config["max_length"]},
        "objective": expected["objective"],
        "train": train,
    });
    let place = Place::new();
    place.write("run.yaml", serde_yaml::to_string(&run).unwrap());
    place.run(&["train", "-c", "run.yaml"]).ok();
    let (found, steps) = (place.metrics("run"), expected["steps"].as_array().unwrap());
    assert_eq!(found.len(), steps.len());
    for (i, (line, want)) in found.iter().zip(steps).enumerate() {
        let norm = want["grad_norm"].as_f64().unwrap();
        for (name, value) in expected_figures(want).chain([("grad_norm", norm)]) {
            close(line[name].as_f64().unwrap(), value, &format!("step {i} {name}"));
        }
    }
}

#[test]
fn llama() {
    follow("llama", false);
}

#[test]
fn qwen2_with_label_smoothing() {
    follow("qwen2", false);
}

#[test]
fn llama_from_an_adapter_against_its_frozen_copy() {
    follow("llama-init", false);
}

#[test]
fn recomputed_blocks_change_nothing() {
    follow("llama", true);
}

#[test]
fn llama_on_a_device() {
    let Some(device) = common::device::device() else { return };
    follow_on("llama", false, Some(device));
}

#[test]
fn llama_from_an_adapter_on_a_device_with_recomputation() {
    let Some(device) = common::device::device() else { return };
    follow_on("llama-init", true, Some(device));
}
