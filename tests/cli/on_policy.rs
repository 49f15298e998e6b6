//! Runs whose completions the policy draws: GRPO, RLOO, PPO and online DPO from the program, and that they resume to the
//! byte.

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::Place;

const TRAIN: [&str; 3] = ["train", "-c", "run.yaml"];

/// A run of six steps of four completions each, with prompts alone.
fn place(objective: Value, more: &[(&str, Value)]) -> Place {
    let place = Place::new();
    let prompts: String =
        (0..9).map(|i| json!({"prompt": format!("Question {i}: where is it?")}).to_string() + "\n").collect();
    place.write("prompts.jsonl", prompts);
    let mut settings = vec![
        ("objective", objective),
        ("rollout", json!({"reward": "length", "num_generations": 2, "max_completion_length": 5})),
        ("train.save_steps", json!(1)),
        ("train.save_total_limit", Value::Null),
        ("train.warmup_steps", json!(0)),
        ("lora.lora_dropout", json!(0.0)),
    ];
    settings.extend_from_slice(more);
    place.recipe(&fixture("models/llama"), &place.path("prompts.jsonl"), &settings);
    place
}

/// Trains, and again with the last steps lost: with the same end.
fn resumes(objective: &Value, lost: std::ops::RangeInclusive<usize>) -> Place {
    let (whole, part) = (place(objective.clone(), &[]), place(objective.clone(), &[]));
    for place in [&whole, &part] {
        let ran = place.run(&TRAIN);
        assert_eq!(ran.code, Some(0), "{objective}: {}", ran.stderr);
    }
    for step in lost {
        std::fs::remove_dir_all(part.path(&format!("run/checkpoints/step-{step}"))).unwrap();
    }
    std::fs::remove_dir_all(part.path("run/adapter")).unwrap();
    part.run(&["train", "-c", "run.yaml", "--resume"]).ok();
    assert_eq!(part.adapter("run"), whole.adapter("run"), "{objective}");
    assert_eq!(part.metrics("run"), whole.metrics("run"), "{objective}");
    whole
}

fn figures(place: &Place, name: &str) -> Vec<f64> {
    place.metrics("run").iter().filter_map(|line| line[name].as_f64()).collect()
}

#[test]
fn grpo_resumes_between_the_updates_of_a_generation() {
    let place = resumes(&json!({"loss_type": "grpo", "num_iterations": 2, "beta": 0.1}), 4..=6);
    // A generation has two updates; figures of completions come with the first.
    assert_eq!((figures(&place, "reward").len(), figures(&place, "loss").len()), (3, 6));
    assert_eq!(figures(&place, "kl").len(), 6);
    let card = String::from_utf8(place.read("run/adapter/README.md")).unwrap();
    assert!(card.contains("`grpo`"), "{card}");
}

#[test]
fn rloo_and_online_dpo_resume() {
    resumes(&json!({"loss_type": "rloo"}), 5..=6);
    let place = resumes(&json!({"loss_type": "sigmoid", "beta": 0.1}), 3..=6);
    assert!(figures(&place, "rewards/margins").len() == 6 && figures(&place, "reward").len() == 6);
    assert!(!place.path("cache/dpo-lora/reference").exists());
}

#[test]
fn ppo_resumes_with_its_value_head_and_its_adapter_has_none() {
    let place = resumes(&json!({"loss_type": "ppo", "num_mini_batches": 2, "adap_kl_ctrl": true}), 4..=6);
    let config: Value = serde_json::from_slice(&place.read("run/adapter/adapter_config.json")).unwrap();
    assert_eq!((&config["task_type"], &config["modules_to_save"]), (&json!("CAUSAL_LM"), &Value::Null));
    assert!(place.path("run/checkpoints/step-6/value").exists());
    let coefficients = figures(&place, "kl_coef");
    assert!(coefficients.len() == 6 && coefficients[0] == 0.05 && coefficients[5] != 0.05);
}

#[test]
fn what_does_not_fit_is_refused_before_the_run() {
    for (objective, setting, words) in [
        (json!({"loss_type": "grpo"}), "rollout.reward=null", "rollout.reward is null"),
        (json!({"loss_type": "grpo"}), "rollout.reward=lenght", "did you mean length"),
        (json!({"loss_type": "grpo"}), "rollout.num_generations=3", "not whole groups of 3"),
        (json!({"loss_type": "grpo"}), "data.eval=0.2", "data.eval is set"),
        (json!({"loss_type": "sft"}), "rollout.temperature=1", "not one of pairs"),
        (json!({"loss_type": ["grpo", "sft"]}), "rollout.temperature=1", "stands alone"),
        (json!({"loss_type": "rloo"}), "rollout.reward=adapter:nowhere", "nowhere"),
    ] {
        let ran = place(objective, &[]).run(&[&TRAIN[..], &["--set", setting]].concat());
        assert!(ran.code != Some(0) && ran.stderr.contains(words), "{setting}: {}", ran.stderr);
    }
    let place = place(json!({"loss_type": "grpo"}), &[]);
    place.write("prompts.jsonl", "{\"question\": \"a\"}\n");
    let ran = place.run(&TRAIN);
    assert!(ran.stderr.contains("prompts.jsonl:1: missing `prompt`"), "{}", ran.stderr);
}
