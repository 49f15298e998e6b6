//! Losses of drawn completions: against TRL's own code (`tests/parity/on_policy_cases.py`), and one update of GRPO and of PPO
//! against computations of their own in f64, from the logits of the whole vocabulary.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Model, decoder, examples, fixture, json, random_lora};
use dpo_lora::data::{ChatTokenizer, Example, Kind, PackedBatch};
use dpo_lora::generate::{Completion, FinishReason};
use dpo_lora::model::decoder::Readout;
use dpo_lora::model::pass::Pass;
use dpo_lora::objective::on_policy::{AdaptiveKl, GroupRelative, Normalisation, Sampled, StepSize};
use dpo_lora::objective::{Dapo, Metrics, Objective, ObjectiveConfig, OnPolicy, Ppo};
use dpo_lora::random::Stream;
use dpo_lora::ranks::ALONE;
use dpo_lora::rollout::{Generation, RolloutConfig};
use dpo_lora::train::config::TrainConfig;
use dpo_lora::train::optimizer::Optimizer;
use dpo_lora::train::rollouts::{self, Held, Rewarded, RolloutSource, Update};
use dpo_lora::train::step::Settings;
use serde_json::Value;

fn lists(value: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn losses_and_gradients_are_those_of_trl() {
    let cases = json("on_policy.json");
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 26);
    for case in cases {
        let section = serde_json::to_string(&case["objective"]).unwrap();
        let objective = serde_yaml::from_str::<ObjectiveConfig>(&section).unwrap().resolve().unwrap();
        let masked: Vec<usize> = serde_json::from_value(case["masked"].clone()).unwrap();
        let reference = lists(&case["ref_logps"]);
        let numbers = lists(&case["logps"]).into_iter().zip(lists(&case["old_logps"])).enumerate();
        let batch: Vec<Sampled> = numbers
            .map(|(i, (logps, old_logps))| Sampled {
                logps,
                old_logps,
                ref_logps: Some(reference[i].clone()),
                advantage: case["advantages"][i].as_f64().unwrap(),
                counts: !masked.contains(&i),
            })
            .collect();
        // Two micro-batches of four completions; 31 tokens in both.
        let step = StepSize { completions: 8, micro_batches: 2, tokens: 31, max_completion_length: 9 };
        let found = match objective.on_policy().unwrap() {
            OnPolicy::Grouped(loss, normalisation) => loss.weigh(normalisation, &batch, step),
            OnPolicy::LeaveOneOut(loss) => loss.weigh(&batch, step),
            OnPolicy::Proximal(_) => panic!("not in the fixture"),
        };
        let want = case["loss"].as_f64().unwrap();
        assert!((found.loss - want).abs() < 1e-9 * want.abs().max(1.0), "{section}: {} {want}", found.loss);
        for (own, want) in found.d_logps.iter().zip(lists(&case["d_logps"])) {
            assert!(own.iter().zip(&want).all(|(x, y)| (x - y).abs() < 1e-9), "{section}: {own:?} {want:?}");
        }
    }
}

/// A policy with B ≠ 0 and, for PPO, a value head of ordinary size.
fn model() -> Model {
    let mut model = decoder("llama");
    let mut adapters = random_lora(&model, 3).with_score(model.spec().hidden, 5).unwrap();
    let head = adapters.score().unwrap().1;
    adapters.update(|values| values[head].iter_mut().for_each(|x| *x *= 10.0));
    model.train(adapters);
    model
}

/// Two prompts with two completions each, as if they had been drawn.
fn drawn() -> Rewarded {
    let prompts: Vec<Example> = examples("pairs.jsonl", &fixture("models/llama"))[..2]
        .iter()
        .map(|pair| Example { completions: Vec::new(), kind: Kind::Prompt, ..pair.clone() })
        .collect();
    let tokens = [vec![30, 31, 32], vec![40, 41], vec![50, 51, 52, 53], vec![60]];
    let completions = tokens.into_iter().enumerate().map(|(i, tokens)| Completion {
        prompt: i / 2,
        index: i % 2,
        text: String::new(),
        logps: vec![-1.0; tokens.len() + 1],
        sampling_logps: vec![-1.0; tokens.len() + 1],
        tokens,
        end: Some(1),
        finish_reason: FinishReason::Stop,
    });
    let generation = Generation { prompts, completions: completions.collect() };
    Rewarded { generation, rewards: vec![1.0, -0.5, 0.25, 2.0] }
}

fn source(objective: &Objective, yaml: &str) -> RolloutSource {
    let config: RolloutConfig = serde_yaml::from_str(yaml).unwrap();
    RolloutSource {
        drawing: config.resolve(objective).unwrap().unwrap(),
        tokenizer: ChatTokenizer::load(fixture("models/llama"), None).unwrap(),
        eos: vec![1],
        rewards: Vec::new(),
        identities: Vec::new(),
    }
}

fn settings(objective: &Objective) -> Settings<'_> {
    Settings {
        objective,
        learning_rate: 0.0,
        clip_norm: None,
        dropout: 0.0,
        stream: Stream::new(3, "step"),
        recompute: false,
        noise: None,
        ranks: &ALONE,
        cards: None,
    }
}

/// log π of every token of every completion at a temperature, from all logits and in f64.
fn logps(model: &Model, drawn: &Rewarded, pass: Pass, temperature: f64) -> Vec<Vec<f64>> {
    let one = |completion: &Completion| {
        let (prompt, tokens) = (&drawn.generation.prompts[completion.prompt], completion.drawn());
        let alone = Example { completions: vec![tokens.clone()], kind: Kind::Text, ..prompt.clone() };
        let batch = PackedBatch::new(&[&alone]);
        let logits = model.logits(&batch, &batch.scored_rows, pass).unwrap();
        let vocabulary = logits.shape().1;
        let rows = logits.numbers().chunks(vocabulary).zip(&tokens);
        rows.map(|(row, token)| {
            let sum: f64 = row.iter().map(|l| (f64::from(*l) / temperature).exp()).sum();
            f64::from(row[*token as usize]) / temperature - sum.ln()
        })
        .collect::<Vec<f64>>()
    };
    drawn.generation.completions.iter().map(one).collect()
}

fn values(model: &Model, drawn: &Rewarded) -> Vec<Vec<f64>> {
    let one = |completion: &Completion| {
        let prompt = &drawn.generation.prompts[completion.prompt];
        let alone = Example { completions: vec![completion.drawn()], kind: Kind::Text, ..prompt.clone() };
        let readout = Readout { logps: false, values: true, temperature: 1.0 };
        let read =
            model.decoder.read(&PackedBatch::new(&[&alone]), &model.policy, Pass::Policy, readout).unwrap();
        read.values.into_iter().map(f64::from).collect::<Vec<f64>>()
    };
    drawn.generation.completions.iter().map(one).collect()
}

/// Compares a gradient with the slope of a loss along its signs, for each tensor.
fn assert_gradient(model: &mut Model, gradient: &[f32], loss: impl Fn(&Model) -> f64) {
    let entries = model.trained().store().entries().to_vec();
    let mut told = 0;
    for entry in entries {
        let norm: f64 = gradient[entry.range.clone()].iter().map(|g| f64::from(g.abs())).sum();
        if norm < 1e-3 {
            continue;
        }
        told += 1;
        let mut moved = |by: f32| {
            let before = model.trained().values().to_vec();
            model.policy.trained.update(|values| {
                entry.range.clone().for_each(|i| values[i] += by * gradient[i].signum());
            });
            let found = loss(model);
            model.policy.trained.update(|values| values.copy_from_slice(&before));
            found
        };
        let step = (0.01 / norm as f32).clamp(1e-3, 1e-2) / (entry.range.len() as f32).sqrt();
        let mut central = |h: f32| (moved(h) - moved(-h)) / (2.0 * f64::from(h));
        let slope = (4.0 * central(step) - central(2.0 * step)) / 3.0;
        assert!((slope - norm).abs() <= 1e-2 * norm, "{}: {slope} against {norm}", entry.name);
    }
    assert!(told > 20, "{told} tensors have a gradient");
}

#[test]
fn an_update_of_grpo_has_the_gradient_of_its_definition() {
    let (mut model, drawn) = (model(), drawn());
    let loss = GroupRelative { beta: 0.2, ..GroupRelative::default() };
    let objective = Objective::new(Dapo(loss.clone()));
    let source = source(&objective, "{reward: length, num_generations: 2, temperature: 0.8}");
    let own = OnPolicy::Grouped(&loss, Normalisation::Step);
    let held =
        Held::new(&ALONE, (&model.decoder, &model.policy), (&drawn, vec![0, 1]), own, (&source, 3)).unwrap();
    // A policy that has moved since: ratios differ from 1.
    model.policy.trained.update(|values| {
        values.iter_mut().enumerate().for_each(|(i, x)| {
            *x += 0.02 * ((i as f32) * 0.7).sin();
        })
    });
    let update = Update {
        prompts: &drawn.generation.prompts,
        held: &held,
        size: 3,
        temperature: 0.8,
        max_completion_length: 9,
    };
    let mut optimizer = Optimizer::new(&TrainConfig::default().optimizer(), model.policy.trained.store_mut());
    let outcome = rollouts::grouped_step(
        &model.decoder,
        &mut model.policy,
        &mut optimizer,
        (&update, own),
        &settings(&objective),
        Metrics::default(),
    )
    .unwrap();
    let gradient = model.trained().store().gradient().to_vec();
    let old: Vec<Vec<f64>> = held
        .completions
        .iter()
        .map(|held| held.old_logps.iter().map(|bits| f64::from(f32::from_bits(*bits))).collect())
        .collect();
    let reference = logps(&model, &drawn, Pass::Reference, 0.8);
    // Rewards 1 and −0.5 of the first prompt: mean ¼, deviation 1.5/√2; and ¼ and 2 of the second.
    let deviation = |difference: f64| difference / 2f64.sqrt() + 1e-4;
    let advantages =
        [0.75 / deviation(1.5), -0.75 / deviation(1.5), -0.875 / deviation(1.75), 0.875 / deviation(1.75)];
    let of = |model: &Model| {
        let new = logps(model, &drawn, Pass::Policy, 0.8);
        let (mut sum, mut tokens) = (0.0, 0);
        for (i, new) in new.iter().enumerate() {
            for (t, new) in new.iter().enumerate() {
                let w = (new - old[i][t]).exp();
                let x = reference[i][t] - new;
                let policy = (w * advantages[i]).min(w.clamp(0.8, 1.2) * advantages[i]);
                sum += -policy + 0.2 * (x.exp() - x - 1.0) * w;
                tokens += 1;
            }
        }
        sum / f64::from(tokens)
    };
    let (found, want) = (outcome.metrics.loss().unwrap(), of(&model));
    assert!((found - want).abs() < 1e-5 * want.abs().max(1.0), "{found} {want}");
    assert_gradient(&mut model, &gradient, of);
}

#[test]
fn an_update_of_ppo_has_the_gradient_of_its_definition() {
    let (mut model, drawn) = (model(), drawn());
    let ppo = Ppo { num_ppo_epochs: 1, vf_coef: 0.5, gamma: 0.97, lam: 0.9, ..Ppo::default() };
    let objective = Objective::new(ppo.clone());
    let source = source(&objective, "{reward: length, num_generations: 2, temperature: 0.8}");
    let mut optimizer = Optimizer::new(&TrainConfig::default().optimizer(), model.policy.trained.store_mut());
    let mut coefficient = AdaptiveKl(0.3);
    let old = logps(&model, &drawn, Pass::Policy, 0.8);
    let reference = logps(&model, &drawn, Pass::Reference, 0.8);
    let old_values = values(&model, &drawn);
    let parts = (&model.decoder, &mut model.policy, &mut optimizer);
    let learned = (&ppo, &mut coefficient);
    let outcome =
        rollouts::proximal_step(parts, (&drawn, &source, 3), learned, &settings(&objective)).unwrap();
    let gradient = model.trained().store().gradient().to_vec();
    let mut advantages: Vec<Vec<f64>> = Vec::new();
    for (i, old) in old.iter().enumerate() {
        let n = old.len();
        let reward =
            |t: usize| -0.3 * (old[t] - reference[i][t]) + if t + 1 == n { drawn.rewards[i] } else { 0.0 };
        let value = |t: usize| if t < n { old_values[i][t] } else { 0.0 };
        let delta = |t: usize| reward(t) + 0.97 * value(t + 1) - value(t);
        let sum = |t: usize| (t..n).map(|s| (0.97f64 * 0.9).powi((s - t) as i32) * delta(s)).sum();
        advantages.push((0..n).map(sum).collect());
    }
    let all: Vec<f64> = advantages.iter().flatten().copied().collect();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (all.len() - 1) as f64;
    let of = |model: &Model| {
        let (new, values) = (logps(model, &drawn, Pass::Policy, 0.8), values(model, &drawn));
        let mut sum = 0.0;
        for i in 0..new.len() {
            for t in 0..new[i].len() {
                let a = (advantages[i][t] - mean) / (variance + 1e-8).sqrt();
                let w = (new[i][t] - old[i][t]).exp();
                let goal = advantages[i][t] + old_values[i][t];
                let near = values[i][t].clamp(old_values[i][t] - 0.2, old_values[i][t] + 0.2);
                let value = (values[i][t] - goal).powi(2).max((near - goal).powi(2));
                sum += -(w * a).min(w.clamp(0.8, 1.2) * a) + 0.5 * 0.5 * value;
            }
        }
        sum / all.len() as f64
    };
    let want = of(&model);
    let found = outcome.metrics.loss().unwrap();
    assert!((found - want).abs() < 1e-4 * want.abs().max(1.0), "{found} {want}");
    assert_gradient(&mut model, &gradient, of);
}

/// The estimate of the divergence, over all completions of one token, is the divergence itself.
#[test]
fn the_divergence_estimate_is_exact_over_all_completions() {
    let model = model();
    let prompt = &drawn().generation.prompts[0];
    let vocabulary = model.spec().vocab_size as u32;
    let all = Example {
        completions: (0..vocabulary).map(|token| vec![token]).collect(),
        kind: Kind::Text,
        ..prompt.clone()
    };
    let batch = PackedBatch::new(&[&all]);
    let readout = Readout { logps: true, values: false, temperature: 0.7 };
    let read = |pass| model.decoder.read(&batch, &model.policy, pass, readout).unwrap().logps;
    let (new, reference) = (read(Pass::Policy), read(Pass::Reference));
    let exact: f64 = new.iter().zip(&reference).map(|(p, q)| f64::from(*p).exp() * f64::from(p - q)).sum();
    let loss = GroupRelative { beta: 1.0, use_bias_correction_kl: false, ..GroupRelative::default() };
    let step = StepSize { completions: 1, micro_batches: 1, tokens: 1, max_completion_length: 1 };
    let estimate: f64 = new
        .iter()
        .zip(&reference)
        .map(|(p, q)| {
            let sampled = Sampled {
                logps: vec![f64::from(*p)],
                old_logps: vec![f64::from(*p)],
                ref_logps: Some(vec![f64::from(*q)]),
                advantage: 0.0,
                counts: true,
            };
            f64::from(*p).exp() * loss.weigh(Normalisation::Step, &[sampled], step).loss
        })
        .sum();
    assert!(exact > 1e-3 && (exact - estimate).abs() < 1e-5, "{exact} {estimate}");
}
