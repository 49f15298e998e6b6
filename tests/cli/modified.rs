//! A reference that moves (TR-DPO), noise on the embeddings, and what changes a loss: what they compute, and that a resumed
//! run ends with the same bytes.

use dpo_lora::adapter::peft;
use dpo_lora::model::pass::Pass;
use dpo_lora::trainable::{Adapters, Policy};
use serde_json::{Value, json};

use crate::common::program::Place;
use crate::common::{decoder, examples, fixture, pack};

const TRAIN: [&str; 3] = ["train", "-c", "run.yaml"];

/// The place of a run of six steps with these settings, evaluated after every step.
fn run(more: &[(&str, Value)]) -> Place {
    let place = Place::new();
    let pairs = fixture("pairs.jsonl");
    let mut settings = vec![
        ("data.eval", json!(pairs.to_str().unwrap())),
        ("train.eval_steps", json!(1)),
        ("train.save_steps", json!(1)),
        ("train.save_total_limit", Value::Null),
        ("train.warmup_steps", json!(0)),
        ("train.threads", json!(1)),
        ("objective", json!({"beta": 0.5})),
    ];
    settings.extend_from_slice(more);
    place.llama_recipe(&settings);
    place.run(&TRAIN).ok();
    place
}

/// Figures of the evaluations, from before the first step on.
fn evaluations(place: &Place, figure: &str) -> Vec<f64> {
    place.metrics("run").iter().filter_map(|line| line[figure].as_f64()).collect()
}

#[test]
fn the_reference_moves_as_in_tr_dpo() {
    let place = run(&[
        ("train.sync_ref_model", json!(true)),
        ("train.ref_model_sync_steps", json!(2)),
        ("train.ref_model_mixup_alpha", json!(0.7)),
    ]);
    let model = decoder("llama");
    let read = |step: usize, which: &str| -> Adapters {
        peft::read(&place.path(&format!("run/checkpoints/step-{step}/{which}")), model.spec())
            .unwrap()
            .adapters
    };
    let at_first = read(1, "reference");
    // The matrices B are those of the base's own policy: 0.
    let logps = |adapters: Adapters| {
        let batch = pack(&examples("pairs.jsonl", &fixture("models/llama")));
        model.decoder.logps(&batch, &Policy::of(adapters), Pass::Policy).unwrap()
    };
    assert_eq!(logps(at_first.copy()), logps(Adapters::default()));
    let mut expected: Vec<f64> = at_first.values().iter().map(|x| f64::from(*x)).collect();
    let margins = evaluations(&place, "eval_rewards/margins");
    assert_eq!(margins.len(), 7, "one before the first step, and one after each");
    for (step, found) in margins.into_iter().enumerate().skip(1) {
        let policy = read(step, "adapter");
        if step % 2 == 0 {
            for (reference, policy) in expected.iter_mut().zip(policy.values()) {
                *reference = 0.7 * f64::from(*policy) + 0.3 * *reference;
            }
        }
        let reference = read(step, "reference");
        for (found, expected) in reference.values().iter().zip(&expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "step {step}: {found} {expected}");
        }
        let (policy, reference) = (logps(policy), logps(reference));
        let reward = |i: usize| 0.5 * (policy[i] - reference[i]);
        let pairs = policy.len() / 2;
        let margin = (0..pairs).map(|i| reward(2 * i) - reward(2 * i + 1)).sum::<f64>() / pairs as f64;
        assert!((found - margin).abs() < 1e-4, "step {step}: {found} {margin}");
    }
    assert!(!place.path("cache/dpo-lora/reference").exists(), "a moving reference is not kept");
}

#[test]
fn the_best_adapter_is_evaluated_against_its_own_reference() {
    let place = run(&[
        ("train.sync_ref_model", json!(true)),
        ("train.ref_model_sync_steps", json!(2)),
        ("train.learning_rate", json!(0.02)),
        ("train.load_best_model_at_end", json!(true)),
        ("train.metric_for_best_model", json!("rewards/margins")),
    ]);
    // The evaluation before the first step belongs to no checkpoint.
    let margins = &evaluations(&place, "eval_rewards/margins")[1..];
    let best = margins.iter().copied().max_by(f64::total_cmp).unwrap();
    assert_ne!(margins.last(), Some(&best), "the test needs a best step before the last: {margins:?}");
    let card = String::from_utf8(place.read("run/adapter/README.md")).unwrap();
    let line = card.lines().find(|line| line.starts_with("| reward margin")).unwrap();
    assert!(line.ends_with(&format!("| {best:.4} |")), "{line}: {margins:?}");
}

#[test]
fn all_of_it_together_resumes_to_the_same_bytes() {
    let objective = json!({
        "loss_type": ["sigmoid", "ipo"], "loss_weights": [1, 0.1], "beta": 0.5, "beta_end": 0.1, "beta_schedule": "cosine",
        "ld_alpha": 0.4, "use_weighting": true
    });
    let place = run(&[
        ("objective", objective),
        ("train.sync_ref_model", json!(true)),
        ("train.ref_model_sync_steps", json!(2)),
        ("train.neftune_noise_alpha", json!(5)),
        ("train.gradient_checkpointing", json!(true)),
    ]);
    let (adapter, metrics) = (place.adapter("run"), place.metrics("run"));
    for step in 4..=6 {
        std::fs::remove_dir_all(place.path(&format!("run/checkpoints/step-{step}"))).unwrap();
    }
    std::fs::remove_dir_all(place.path("run/adapter")).unwrap();
    place.run(&[&TRAIN[..], &["--resume"]].concat()).ok();
    assert_eq!(place.adapter("run"), adapter);
    assert_eq!(place.metrics("run"), metrics);
    // A checkpoint without its reference is damaged.
    std::fs::remove_dir_all(place.path("run/checkpoints/step-6/reference")).unwrap();
    let ran = place.run(&[&TRAIN[..], &["--resume"]].concat());
    assert!(ran.stderr.contains("step-6 is damaged and skipped"), "{}", ran.stderr);
    assert_eq!(place.adapter("run"), adapter);
    ran.ok();
}

#[test]
fn noise_is_in_training_and_nowhere_else() {
    let (noisy, plain) = (run(&[("train.neftune_noise_alpha", json!(5))]), run(&[]));
    assert_ne!(noisy.adapter("run")[1], plain.adapter("run")[1]);
    let step = |place: &Place| place.metrics("run").into_iter().find(|line| line["loss"].is_f64()).unwrap();
    // At the first step policy and reference are the same, but for the noise on the policy.
    assert_eq!(step(&plain)["rewards/margins"].as_f64(), Some(0.0));
    assert_ne!(step(&noisy)["rewards/margins"].as_f64(), Some(0.0));
    assert_eq!(evaluations(&noisy, "eval_loss")[0], evaluations(&plain, "eval_loss")[0]);
    assert_eq!(evaluations(&noisy, "eval_rewards/margins")[0], 0.0);
}

#[test]
fn beta_changes_the_loss_and_its_rewards_from_step_to_step() {
    let constant = run(&[("train.learning_rate", json!(1e-12))]);
    let falling =
        run(&[("train.learning_rate", json!(1e-12)), ("objective", json!({"beta": 0.5, "beta_end": 0.1}))]);
    let norms = |place: &Place| -> Vec<f64> {
        place.metrics("run").iter().filter_map(|line| line["grad_norm"].as_f64()).collect()
    };
    // While the policy is the reference, the gradient is proportional to β: 0.5, 0.42, ..., 0.1.
    for (step, (falling, constant)) in norms(&falling).iter().zip(norms(&constant)).enumerate() {
        let beta = 0.5 - 0.08 * step as f64;
        assert!((falling / constant - beta / 0.5).abs() < 1e-3, "step {step}: {}", falling / constant);
    }
}

#[test]
fn what_a_loss_does_not_have_is_refused() {
    let place = Place::new();
    place.llama_recipe(&[]);
    for (settings, part) in [
        (
            vec!["objective.loss_type=simpo", "train.sync_ref_model=true"],
            "objective.loss_type has no reference",
        ),
        (vec!["train.ref_model_mixup_alpha=1.5"], "train.ref_model_mixup_alpha is 1.5"),
        (vec!["train.ref_model_sync_steps=0"], "train.ref_model_sync_steps is 0"),
        (vec!["train.neftune_noise_alpha=0"], "train.neftune_noise_alpha is 0"),
        (vec!["objective.ld_alpha=1.5"], "objective.ld_alpha is 1.5"),
        (vec!["objective.ld_alpha=0.5", "objective.loss_type=kto"], "kto does not compare pairs"),
        (vec!["objective.ld_alpha=0.5", "objective.loss_type=sft"], "nothing is compared"),
        (vec!["objective.use_weighting=true", "objective.loss_type=aot"], "aot has no loss of a single pair"),
        (
            vec!["objective.use_weighting=true", "objective.loss_type=[sigmoid, sft]"],
            "sft has no loss of a single pair",
        ),
        (vec!["objective.beta_end=0", "objective.loss_type=ipo"], "objective.beta_end is 0"),
        (vec!["objective.beta_end=1", "objective.loss_type=sft"], "no loss has a beta"),
        (vec!["objective.beta_schedule=cosin"], "beta_schedule is cosin"),
        (vec!["objective.rpo_alpha=1"], "loss_type: [sigmoid, sft] with loss_weights: [1, rpo_alpha]"),
        (vec!["train.optim=lyon"], "did you mean lion?"),
        (vec!["train.lr_scheduler_type=cosin"], "did you mean cosine?"),
        (
            vec!["train.sync_ref_model=true", "lora.init_from=x", "lora.reference=base"],
            "no adapter that could move",
        ),
    ] {
        let set = settings.iter().flat_map(|setting| ["--set", setting]);
        let ran = place.run(&TRAIN.into_iter().chain(set).collect::<Vec<_>>());
        assert_eq!(ran.code, Some(2), "{settings:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(part), "{settings:?}: {part} in {}", ran.stderr);
    }
}
