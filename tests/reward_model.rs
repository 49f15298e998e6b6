//! Reward models: twelve steps of TRL's `RewardTrainer` (`tests/parity/trl_reward.py`), gradients, and PEFT's SEQ_CLS files.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Model, decoder, fixture, json, random_lora};
use dpo_lora::adapter::peft::{self, Reading};
use dpo_lora::data::dataset::Builder;
use dpo_lora::data::{
    ChatTokenizer, DataConfig, Example, Feed, Ingest, PackedBatch, RecordReader, Truncation, Wanted, source,
};
use dpo_lora::model::decoder::Training;
use dpo_lora::model::pass::Pass;
use dpo_lora::objective::{Objective, ObjectiveConfig, Reward};
use dpo_lora::random::Stream;
use dpo_lora::ranks::ALONE;
use dpo_lora::train::config::TrainConfig;
use dpo_lora::train::optimizer::Optimizer;
use dpo_lora::train::reference::ReferenceCache;
use dpo_lora::train::step::{self, Settings};
use dpo_lora::trainable::Adapters;

const REWARD: Reading = Reading { head: false, score: true, force: false, base: None };

fn close(got: f64, want: f64, what: &str) {
    let scale = want.abs().max(1e-3);
    assert!((got - want).abs() <= 1e-3 * scale, "{what}: {got} against {want}");
}

/// The pairs of a file as a run with the loss `reward` reads them.
fn examples(data: &str) -> Vec<Example> {
    let tokenizer = ChatTokenizer::load(fixture("models/llama"), None).unwrap();
    let sources = dpo_lora::data::Sources::from(fixture(data).to_str().unwrap());
    let config = DataConfig::new(sources.clone());
    let reader = RecordReader::new(&config).unwrap().wanting(Wanted::Rewarded);
    let feed = Feed { inputs: source::resolve(&sources).unwrap(), reader };
    let ingest = Ingest {
        tokenizer: &tokenizer,
        truncation: config.truncation(),
        vocab_size: usize::MAX,
        limit: None,
        wanted: Wanted::Rewarded,
    };
    let mut builder = Builder::default();
    let findings = ingest.run(&[feed], &mut builder).unwrap();
    assert!(findings.refused().is_none() && findings.dropped.count == 0);
    builder.finish("").unwrap().iter().map(Result::unwrap).collect()
}

fn pack(examples: &[Example]) -> PackedBatch {
    PackedBatch::rewarded(&examples.iter().collect::<Vec<_>>())
}

fn follow(run: &str) {
    let expected = json(&format!("trl/{run}/expected.json"));
    let number = |key: &str| expected["config"][key].as_f64().unwrap();
    let mut model = decoder(expected["model"].as_str().unwrap());
    let initial = peft::read_for(&fixture(&format!("trl/{run}/init")), model.spec(), REWARD).unwrap();
    assert!(initial.adapters.score().is_some() && initial.notes.is_empty(), "{:?}", initial.notes);
    model.train(initial.adapters);
    let examples = examples(expected["data"].as_str().unwrap());
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
    let Model { decoder, mut policy } = model;
    let mut optimizer = Optimizer::new(&config.optimizer(), policy.trained.store_mut());
    let mut reference = ReferenceCache::in_memory();
    let mut micro_batches = examples.chunks(number("per_device_train_batch_size") as usize);
    for (i, want) in steps.iter().enumerate() {
        let accumulation = number("gradient_accumulation_steps") as usize;
        let batches: Vec<PackedBatch> = micro_batches
            .by_ref()
            .take(accumulation)
            .map(|part| {
                PackedBatch::for_objective(
                    &part.iter().collect::<Vec<_>>(),
                    objective.needs(),
                    Truncation::default(),
                )
            })
            .collect();
        let settings = Settings {
            objective: &objective,
            learning_rate: schedule.lr(i as u64),
            clip_norm: config.clip_norm(),
            dropout: 0.0,
            stream: Stream::new(0, "unused"),
            recompute: i % 2 == 1,
            noise: None,
            ranks: &ALONE,
            cards: None,
        };
        let got =
            step::run(&decoder, &mut policy, &mut optimizer, &mut reference, &batches, &settings).unwrap();
        let means = got.metrics.means();
        let of = |name: &str| means.iter().find(|(key, _)| *key == name).unwrap().1;
        for (name, value) in [
            ("loss", of("loss")),
            ("accuracy", of("rewards/accuracies")),
            ("margin", of("rewards/margins")),
            ("mean_reward", 0.5 * (of("rewards/chosen") + of("rewards/rejected"))),
            ("grad_norm", got.grad_norm),
            ("learning_rate_used", schedule.lr(i as u64)),
        ] {
            close(value, want[name].as_f64().unwrap(), &format!("{run} step {i} {name}"));
        }
        assert!(means.iter().all(|(name, _)| !name.starts_with("logps")), "{means:?}");
    }
    assert_eq!(reference.computed, 0);
    let wanted = expected["rewards"].as_array().unwrap().iter().flat_map(|pair| pair.as_array().unwrap());
    let found = decoder.logps(&pack(&examples[..6]), &policy, Pass::Policy).unwrap();
    assert_eq!(found.len(), 12);
    for (i, (found, want)) in found.iter().zip(wanted).enumerate() {
        close(*found, want.as_f64().unwrap(), &format!("{run}: reward {i} by PEFT"));
    }
}

#[test]
fn rewards_are_trained_as_by_trl() {
    follow("reward");
}

#[test]
fn margins_and_centred_rewards_are_those_of_trl() {
    follow("reward-margin");
}

/// A reward model with B ≠ 0 and a head of ordinary size.
fn model() -> Model {
    let mut model = decoder("llama");
    let mut adapters = random_lora(&model, 3).with_score(model.spec().hidden, 5).unwrap();
    let range = adapters.score().unwrap().1;
    adapters.update(|values| values[range].iter_mut().for_each(|x| *x *= 20.0));
    model.train(adapters);
    model
}

#[test]
fn the_gradients_of_head_and_matrices_are_those_of_finite_differences() {
    let (mut model, pairs) = (model(), examples("trl/margins.jsonl"));
    let batch = pack(&pairs[..3]);
    let objective = Objective::new(Reward { center_rewards_coefficient: Some(0.05) });
    let weigh = |rewards: &[f64]| objective.weigh(&batch.scored_completions(rewards, None).unwrap()).unwrap();
    let (rewards, tape) = model.forward(&batch, Training::default()).unwrap();
    let gradient = model.gradient(tape, &batch, &weigh(&rewards).d_logps);
    let head = model.trained().score().unwrap().1;
    let modules: Vec<_> = model.trained().store().entries().iter().map(|entry| entry.range.clone()).collect();
    assert!(modules.len() > 20 && modules.contains(&head));
    for range in modules {
        let norm: f64 = gradient[range.clone()].iter().map(|g| f64::from(g.abs())).sum();
        assert!(norm > 1e-4, "{range:?}");
        let mut moved = |by: f32| {
            let before = model.trained().values().to_vec();
            model.policy.trained.update(|values| {
                range.clone().for_each(|i| values[i] += by * gradient[i].signum());
            });
            let loss: f64 = weigh(&model.logps(&batch, Pass::Policy).unwrap()).losses.iter().sum();
            model.policy.trained.update(|values| values.copy_from_slice(&before));
            loss
        };
        let step = (0.02 / norm as f32).clamp(1e-3, 2e-2) / (range.len() as f32).sqrt();
        let mut central = |h: f32| (moved(h) - moved(-h)) / (2.0 * f64::from(h));
        let slope = (4.0 * central(step) - central(2.0 * step)) / 3.0;
        assert!((slope - norm).abs() <= 4e-3 * norm, "{range:?}: {slope} against {norm}");
    }
}

#[test]
fn a_reward_does_not_depend_on_its_neighbours() {
    let (model, pairs) = (model(), examples("trl/train.jsonl"));
    let together = model.logps(&pack(&pairs[..5]), Pass::Policy).unwrap();
    for (pair, rewards) in pairs.iter().zip(together.chunks(2)) {
        assert_eq!(model.logps(&pack(std::slice::from_ref(pair)), Pass::Policy).unwrap(), rewards);
    }
    let error = decoder("llama").logps(&pack(&pairs[..1]), Pass::Policy).unwrap_err().to_string();
    assert!(error.contains("has no scalar head"), "{error}");
}

#[test]
fn files_are_pefts_and_read_back() {
    let (model, place) = (model(), tempfile::tempdir().unwrap());
    let origin = peft::Origin::default();
    peft::write(place.path(), model.trained(), model.spec(), 0.0, &origin).unwrap();
    let read = |file: &std::path::Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    };
    let (ours, theirs) = (
        read(&place.path().join("adapter_config.json")),
        read(&fixture("trl/reward/init/adapter_config.json")),
    );
    for key in ["task_type", "modules_to_save", "peft_type", "bias", "target_modules"] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
    let names = |directory: &std::path::Path| {
        let bytes = std::fs::read(directory.join("adapter_model.safetensors")).unwrap();
        let mut names: Vec<String> = safetensors::SafeTensors::deserialize(&bytes)
            .unwrap()
            .names()
            .into_iter()
            .map(String::from)
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(place.path()), names(&fixture("trl/reward/init")));
    let back = peft::read_for(place.path(), model.spec(), REWARD).unwrap().adapters;
    assert_eq!(back.values(), model.trained().values());
    let error = peft::read(place.path(), model.spec()).unwrap_err().to_string();
    assert!(error.contains("SEQ_CLS") && error.contains("score and eval"), "{error}");
    assert!(peft::read_alone(place.path()).unwrap().adapters.score().is_some());
}

#[test]
fn a_head_of_another_shape_or_none_is_refused() {
    let (model, place) = (model(), tempfile::tempdir().unwrap());
    let write = |adapters: &Adapters, task: &str| {
        peft::write(place.path(), adapters, model.spec(), 0.0, &peft::Origin::default()).unwrap();
        let file = place.path().join("adapter_config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        config["task_type"] = task.into();
        std::fs::write(&file, config.to_string()).unwrap();
        peft::read_for(place.path(), model.spec(), REWARD).unwrap_err().to_string()
    };
    let plain = model.trained().of_modules(|module| module != "score");
    assert!(write(&plain, "SEQ_CLS").contains("score.weight is missing"));
    let narrow = plain.with_score(model.spec().hidden - 1, 1).unwrap();
    let error = write(&narrow, "SEQ_CLS");
    assert!(error.contains("is [1, 31]; the head of a reward model for this base is [1, 32]"), "{error}");
    let error = write(model.trained(), "CAUSAL_LM");
    assert!(error.contains("score.weight"), "{error}");
}
