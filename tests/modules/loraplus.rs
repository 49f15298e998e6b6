//! LoRA+ against PEFT's `create_loraplus_optimizer` (`tests/parity/loraplus.py` made the numbers).

use dpo_lora::model::decoder::Training;
use dpo_lora::train::optimizer::{Optimizer, OptimizerConfig, OptimizerKind};

use super::common::{adapt, decoder, fixture, json};
use super::{ids, text};

/// The steps of a run on the fixture's text: its log-prob before each step, and the norms after it.
fn steps(case: &serde_json::Value, kind: OptimizerKind) -> Vec<[f64; 4]> {
    let number = |key: &str| case[key].as_f64().unwrap();
    let mut model = decoder("llama");
    adapt(&mut model, &fixture(case["adapter"].as_str().unwrap()));
    let config = OptimizerConfig {
        kind,
        weight_decay: number("weight_decay"),
        loraplus_lr_ratio: number("loraplus_lr_ratio"),
        ..OptimizerConfig::default()
    };
    let mut optimizer = Optimizer::new(&config, model.policy.trained.store_mut());
    let batch = text(&ids(&case["ids"]));
    let mut found = Vec::new();
    for _ in case["steps"].as_array().unwrap() {
        let (logps, tape) = model.forward(&batch, Training::default()).unwrap();
        let gradient = model.gradient(tape, &batch, &[-1.0, 0.0]);
        let store = model.policy.trained.store_mut();
        store.clear_gradient();
        store.update_gradient(|all| all.copy_from_slice(&gradient));
        optimizer.step(store, number("learning_rate")).unwrap();
        let norm = |part: &str| {
            let entries = store.entries().iter().filter(|entry| entry.name.contains(part));
            let values = entries.flat_map(|entry| &store.values()[entry.range.clone()]);
            values.map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
        };
        found.push([logps[0], norm("lora_A"), norm("lora_B"), norm("magnitude")]);
    }
    found
}

#[test]
fn steps_follow_pefts_optimizer() {
    for case in json("loraplus.json").as_array().unwrap() {
        let found = steps(case, OptimizerKind::AdamW);
        for (step, (found, want)) in found.iter().zip(case["steps"].as_array().unwrap()).enumerate() {
            let want = ["logp", "lora_A", "lora_B", "magnitude"].map(|key| want[key].as_f64().unwrap());
            for (found, want) in found.iter().zip(want) {
                let apart = (found - want).abs();
                assert!(apart <= 1e-4 * want.abs() + 1e-9, "{} {step}: {found} {want}", case["adapter"]);
            }
        }
    }
}

/// Each optimizer moves B farther with a ratio, and A as before in the first step.
#[test]
fn every_optimizer_has_the_ratio() {
    let cases = json("loraplus.json");
    let mut case = cases[0].clone();
    case["steps"] = serde_json::json!([0]);
    let kinds = ["adamw", "rmsprop", "sgd", "adamw_8bit", "lion", "muon", "schedule_free_adamw"];
    for name in kinds {
        let kind: OptimizerKind = serde_json::from_value(name.into()).unwrap();
        let fast = steps(&case, kind)[0];
        case["loraplus_lr_ratio"] = 1.0.into();
        let slow = steps(&case, kind)[0];
        case["loraplus_lr_ratio"] = 16.0.into();
        assert_eq!(fast[1], slow[1], "{name}: A");
        assert!((fast[2] - slow[2]).abs() > 1e-4, "{name}: B {} {}", fast[2], slow[2]);
    }
}
