//! Optimizers against torch and schedules against transformers (`tests/parity/optim_cases.py` made the numbers).
#![allow(missing_docs, clippy::unwrap_used)]

use dpo_lora::train::optimizer::{Optimizer, OptimizerConfig, OptimizerKind};
use dpo_lora::train::schedule::{Schedule, ScheduleKind};
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
        let config = OptimizerConfig { kind: trajectory.name, beta1, beta2, epsilon: eps, weight_decay };
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
