//! Optimizers compared with torch, and schedules with transformers (`tests/parity/optim_cases.py` made the numbers).
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;

use dpo_lora::train::config::TrainConfig;
use dpo_lora::train::optimizer::{Optimizer, OptimizerConfig, OptimizerKind};
use dpo_lora::train::schedule::{Options, Schedule, ScheduleKind};
use dpo_lora::trainable::Store;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    start: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    learning_rates: Vec<f64>,
    optimizers: Vec<Trajectory>,
    schedules: Vec<Rates>,
}

#[derive(Deserialize)]
struct Trajectory {
    name: OptimizerKind,
    settings: Settings,
    parameters_f32: Vec<Vec<f32>>,
    parameters_f64: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    betas: [f64; 2],
    #[serde(default)]
    eps: f64,
    weight_decay: f64,
}

#[derive(Deserialize)]
struct Rates {
    name: ScheduleKind,
    warmup_steps: u64,
    total_steps: u64,
    learning_rate: f64,
    learning_rates: Vec<f64>,
}

fn fixture() -> Fixture {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/optim.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn optimizers_follow_torch() {
    let fixture = fixture();
    assert!(fixture.optimizers.len() >= 7);
    for trajectory in &fixture.optimizers {
        let Settings { betas: [beta1, beta2], eps, weight_decay } = trajectory.settings;
        let config = OptimizerConfig {
            kind: trajectory.name,
            beta1,
            beta2,
            epsilon: eps,
            weight_decay,
            ..OptimizerConfig::default()
        };
        let mut store = Store::default();
        store.add("a".into(), vec![fixture.start.len()]);
        store.update(|values| values.copy_from_slice(&fixture.start));
        let mut optimizer = Optimizer::new(&config, &mut store);
        for (step, gradients) in fixture.gradients.iter().enumerate() {
            store.clear_gradient();
            store.update_gradient(|gradient| gradient.copy_from_slice(gradients));
            optimizer.step(&mut store, fixture.learning_rates[step]).unwrap();
            for (i, &got) in store.values().iter().enumerate() {
                let what = format!("{config:?} step {step} parameter {i}: {got}");
                let (single, double) =
                    (trajectory.parameters_f32[step][i], trajectory.parameters_f64[step][i]);
                // Two units in the last place of torch's f32: its vector kernels fuse some multiply-adds.
                assert!(
                    (got - single).abs() <= 2.0 * f32::EPSILON * single.abs(),
                    "{what} instead of {single}"
                );
                assert!((f64::from(got) - double).abs() <= 1e-6 * double.abs(), "{what} instead of {double}");
            }
        }
    }
}

#[test]
fn schedules_follow_transformers() {
    let fixture = fixture();
    assert!(fixture.schedules.len() >= 8);
    for rates in &fixture.schedules {
        let schedule = Schedule {
            kind: rates.name,
            options: Options::default(),
            learning_rate: rates.learning_rate,
            warmup_steps: rates.warmup_steps,
            total_steps: rates.total_steps,
        };
        for (step, &expected) in rates.learning_rates.iter().enumerate() {
            let got = schedule.lr(step as u64);
            let what = format!("{:?} warmup {} step {step}", rates.name, rates.warmup_steps);
            assert!((got - expected).abs() <= 1e-18, "{what}: {got} instead of {expected}");
        }
    }
}

/// Longer trajectories over tensors of several sizes, compared with the optimizers' original code.
#[derive(Deserialize)]
struct Long {
    shapes: Vec<Vec<usize>>,
    seed: u64,
    steps: usize,
    every: usize,
    runs: Vec<LongRun>,
}

#[derive(Deserialize)]
struct LongRun {
    name: OptimizerKind,
    settings: LongSettings,
    learning_rate: f64,
    /// Every `every`-th parameter after the first step and after the last.
    first: Vec<f64>,
    last: Vec<f64>,
}

#[derive(Deserialize)]
struct LongSettings {
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    #[serde(default)]
    warmup_steps: u64,
}

/// Returns the numbers of the script: a linear congruential generator, so that the fixture need not contain them.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = (state * 1_103_515_245 + 12_345) % (1 << 31);
            ((state >> 7) % 4096) as f32 / 2048.0 - 1.0
        })
        .collect()
}

#[test]
fn optimizers_follow_their_own_code_for_many_steps() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/optim_long.json"));
    let long: Long = serde_json::from_str(&text.unwrap()).unwrap();
    assert!(long.steps >= 20 && long.runs.len() >= 8);
    for run in &long.runs {
        let LongSettings { betas: [beta1, beta2], eps, weight_decay, warmup_steps } = run.settings;
        let config = OptimizerConfig {
            kind: run.name,
            beta1,
            beta2,
            epsilon: eps,
            weight_decay,
            warmup_steps,
            ..OptimizerConfig::default()
        };
        let mut store = Store::default();
        for (i, shape) in long.shapes.iter().enumerate() {
            store.add(format!("{i}"), shape.clone());
        }
        let count = store.values().len();
        store.update(|values| values.copy_from_slice(&numbers(long.seed, count)));
        let mut optimizer = Optimizer::new(&config, &mut store);
        for step in 0..long.steps {
            optimizer.begin_step(&mut store);
            store.clear_gradient();
            let gradient = numbers(long.seed + 1 + step as u64, count);
            store.update_gradient(|to| to.copy_from_slice(&gradient));
            optimizer.step(&mut store, run.learning_rate).unwrap();
            let expected = match step {
                0 => &run.first,
                last if last + 1 == long.steps => &run.last,
                _ => continue,
            };
            let got: Vec<f32> = store.values().iter().copied().step_by(long.every).collect();
            assert_eq!(got.len(), expected.len());
            for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                // Parameters are about 1 in size; one that crosses 0 is compared relative to the size of its steps.
                // Muon's products are in f32 here and in f64 there; the largest difference was 1.1e-6.
                let tolerance = if run.name == OptimizerKind::Muon { 3e-6 } else { 1e-6 };
                assert!(
                    (f64::from(*got) - expected).abs() <= tolerance * expected.abs().max(0.1),
                    "{config:?} step {step} number {i}: {got} instead of {expected}"
                );
            }
        }
    }
}

#[derive(Deserialize)]
struct Schedules {
    total_steps: u64,
    learning_rate: f64,
    cases: Vec<ScheduleCase>,
}

#[derive(Deserialize)]
struct ScheduleCase {
    name: ScheduleKind,
    warmup_steps: u64,
    kwargs: BTreeMap<String, serde_yaml::Value>,
    learning_rates: Vec<f64>,
}

#[test]
fn every_schedule_follows_transformers_with_its_settings() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/schedules.json"));
    let all: Schedules = serde_json::from_str(&text.unwrap()).unwrap();
    assert!(all.cases.len() >= 50);
    for case in all.cases {
        let constant = case.name == ScheduleKind::Constant;
        let config = TrainConfig {
            lr_scheduler_type: case.name,
            lr_scheduler_kwargs: case.kwargs,
            learning_rate: all.learning_rate,
            // `constant` ignores a warm-up, which is refused here.
            warmup_steps: if constant { 0 } else { case.warmup_steps },
            ..TrainConfig::default()
        };
        config.validate().unwrap();
        let schedule = config.schedule(all.total_steps);
        for (step, expected) in case.learning_rates.iter().enumerate() {
            let got = schedule.lr(step as u64);
            // Where the rate is 0, a cosine rounds to 1e-16 of the peak.
            let tolerance = 1e-12 * expected.abs().max(1e-4 * all.learning_rate);
            assert!(
                (got - expected).abs() <= tolerance,
                "{config:?} step {step}: {got} instead of {expected}"
            );
        }
    }
}
