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
        (json!({"loss_type": "grpo"}), "rollout.reward=command:", "expected the name of a reward"),
        (
            json!({"loss_type": "ppo", "num_mini_batches": 3}),
            "seed=1",
            "objective.num_mini_batches is 3, and a step has 4 completions",
        ),
    ] {
        let ran = place(objective, &[]).run(&[&TRAIN[..], &["--set", setting]].concat());
        assert!(ran.code != Some(0) && ran.stderr.contains(words), "{setting}: {}", ran.stderr);
    }
    let ran = place(json!({"loss_type": "ppo", "num_mini_batches": 50}), &[])
        .run(&[&TRAIN[..], &["--dry-run"]].concat());
    assert!(ran.code == Some(2) && ran.stderr.contains("set it to 4,"), "{}", ran.stderr);
    let place = place(json!({"loss_type": "grpo"}), &[]);
    place.write("prompts.jsonl", "{\"question\": \"a\"}\n");
    let ran = place.run(&TRAIN);
    assert!(ran.stderr.contains("prompts.jsonl:1: missing `prompt`"), "{}", ran.stderr);
}

/// Sets a reward that a program gives.
fn rewarded(command: &str) -> (&'static str, Value) {
    let rollout = json!({
        "reward": format!("command:{command}"), "num_generations": 2, "max_completion_length": 5, "reward_timeout": 20
    });
    ("rollout", rollout)
}

#[test]
#[cfg(unix)]
fn a_command_reads_the_prompt_as_it_was_written() {
    let question = json!({"role": "user", "content": "Question 7: where is it?"});
    let system = json!({"role": "system", "content": "Be brief."});
    let template = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";
    for (prompt, text) in [
        (json!("Question 7: where is it?"), "Question 7: where is it?"),
        (json!([question]), "Question 7: where is it?"),
        (json!([system, question]), r"system: Be brief.\n\nuser: Question 7: where is it?"),
    ] {
        for objective in [json!({"loss_type": "grpo"}), json!({"loss_type": "sigmoid", "beta": 0.1})] {
            // 1 for the right prompt, 0 for any other.
            let sees =
                "awk -v want=want.txt 'BEGIN {getline line < want} {print index($0, line) == 1 ? 1 : 0}'";
            let more =
                [rewarded(sees), ("data.chat_template", json!(template)), ("train.max_steps", json!(2))];
            let place = place(objective.clone(), &more);
            place.write("prompts.jsonl", format!("{}\n", json!({"prompt": prompt})).repeat(9));
            place.write("want.txt", format!("{{\"prompt\":\"{text}\",\"completion\":\"\n"));
            place.run(&TRAIN).ok();
            assert_eq!(figures(&place, "reward"), [1.0; 2], "{prompt} {objective}");
        }
    }
}

#[test]
#[cfg(unix)]
fn a_reward_that_fails_loses_no_step() {
    // Fails from the call on that a file names.
    let script = "n=$(($(cat count 2>/dev/null || echo 0) + 1))\necho $n > count\n\
                  if [ -f fail ] && [ $n -ge $(cat fail) ]; then echo the quota is spent >&2; exit 3; fi\n\
                  awk '{print length($0) % 7}'\n";
    for (objective, call, step) in [
        (json!({"loss_type": "grpo"}), "3", 2),
        (json!({"loss_type": "grpo", "num_iterations": 2, "beta": 0.1}), "3", 4),
        (json!({"loss_type": "ppo", "num_mini_batches": 2, "adap_kl_ctrl": true}), "4", 3),
        (json!({"loss_type": "sigmoid", "beta": 0.1}), "2", 1),
    ] {
        let more = [rewarded("sh reward.sh"), ("train.save_steps", Value::Null)];
        let (whole, part) = (place(objective.clone(), &more), place(objective.clone(), &more));
        whole.write("reward.sh", script);
        whole.run(&TRAIN).ok();
        part.write("reward.sh", script);
        part.write("fail", call);
        let failed = part.run(&TRAIN);
        assert_eq!(failed.code, Some(1), "{objective}: {}", failed.stderr);
        let kept = format!("the run ended after step {step} of 6, and run/checkpoints/step-{step} is kept");
        for words in ["failed (exit status: 3): the quota is spent", &kept, "dpo-lora train --resume run"] {
            assert!(failed.stderr.contains(words), "{objective}: {words} in {}", failed.stderr);
        }
        std::fs::remove_file(part.path("fail")).unwrap();
        part.run(&["train", "-c", "run.yaml", "--resume"]).ok();
        assert_eq!(part.adapter("run"), whole.adapter("run"), "{objective}");
        assert_eq!(part.metrics("run"), whole.metrics("run"), "{objective}");
    }
    // Before the first step there is nothing to keep.
    let place = place(json!({"loss_type": "grpo"}), &[rewarded("false")]);
    let failed = place.run(&TRAIN);
    assert!(failed.code == Some(1) && !failed.stderr.contains("is kept"), "{}", failed.stderr);
    assert!(!place.path("run/checkpoints").exists());
}

#[test]
#[cfg(unix)]
fn a_run_whose_rewards_teach_nothing_is_warned_of_once() {
    let warning = "all had the same reward";
    for objective in [
        json!({"loss_type": "grpo"}),
        json!({"loss_type": "rloo"}),
        json!({"loss_type": "ppo"}),
        json!({"loss_type": "sigmoid", "beta": 0.1}),
    ] {
        let tied = place(objective.clone(), &[rewarded("awk '{print 1}'")]);
        let ran = tied.run(&TRAIN);
        assert_eq!(ran.stderr.matches(warning).count(), 1, "{objective}: {}", ran.stderr);
        ran.ok();
        assert_eq!(figures(&tied, "frac_reward_zero_std"), [1.0; 6], "{objective}");
        let ordinary = place(objective.clone(), &[rewarded("awk '{print NR}'")]);
        let ran = ordinary.run(&TRAIN);
        assert!(!ran.stderr.contains(warning), "{objective}: {}", ran.stderr);
        ran.ok();
        assert_eq!(figures(&ordinary, "frac_reward_zero_std"), [0.0; 6], "{objective}");
    }
    // Every completion is cut, and what is cut counts for nothing.
    let masks = json!({"loss_type": "grpo", "mask_truncated_completions": true});
    let ran = place(masks, &[]).run(&[&TRAIN[..], &["--set", "rollout.max_completion_length=1"]].concat());
    assert_eq!(ran.stderr.matches("the last 22 completions was cut").count(), 1, "{}", ran.stderr);
    ran.ok();
}

#[test]
#[cfg(unix)]
fn rewards_are_refused_with_what_is_wrong_with_them() {
    for (command, setting, words) in [
        ("awk '{print NR % 2 ? 1e308 : -1e308}'", "seed=1", "is 1e308 (with rollout.reward_weights"),
        ("awk '{print 1e100}'", "rollout.reward_weights=[1e60]", "must be from -1e150 to 1e150"),
        ("sleep 30", "rollout.reward_timeout=1", "raise rollout.reward_timeout if it needs longer"),
    ] {
        let ran = place(json!({"loss_type": "grpo"}), &[rewarded(command)])
            .run(&[&TRAIN[..], &["--set", setting]].concat());
        assert!(ran.code == Some(1) && ran.stderr.contains(words), "{command}: {}", ran.stderr);
    }
}

#[test]
fn epochs_are_passes_over_the_prompts_however_often_a_generation_is_used() {
    let more = [("train.max_steps", Value::Null), ("train.num_train_epochs", json!(1))];
    let place = place(json!({"loss_type": "grpo", "num_iterations": 2}), &more);
    // Two prompts a generation, of which each has two steps.
    let told = "10 steps of 2 prompts: 1 epoch over 9 prompts";
    let dry = place.run(&[&TRAIN[..], &["--dry-run"]].concat());
    assert!(dry.stderr.contains(told), "{}", dry.stderr);
    dry.ok();
    let ran = place.run(&TRAIN);
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    ran.ok();
    assert_eq!(figures(&place, "epoch").last(), Some(&1.0));
}
