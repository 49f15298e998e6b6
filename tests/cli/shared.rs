//! Scoring, evaluation, sampling, stages and rollouts by several ranks: the bytes of one, and how they fail.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::{Place, Ran};
use crate::ranks::{ended, signal, start, start_in, together};

/// The only output of ranks: that of rank 0. All must have succeeded.
fn output(ran: Vec<Ran>) -> String {
    let mut all = ran.into_iter();
    let first = all.next().unwrap();
    for (rank, ran) in all.enumerate() {
        assert_eq!(ran.code, Some(0), "rank {}: {}", rank + 1, ran.stderr);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "rank {} prints", rank + 1);
    }
    first.ok()
}

/// Checks that ranks print what one prints.
fn same(place: &Place, args: &[&str], sizes: &[usize]) -> String {
    let alone = place.run(args).ok();
    for size in sizes {
        assert_eq!(output(together(place, *size, args)), alone, "{size} ranks: {args:?}");
    }
    alone
}

fn model() -> [String; 4] {
    let base = fixture("models/llama");
    let adapter = base.join("adapters/plain");
    ["--base".into(), base.display().to_string(), "--adapter".into(), adapter.display().to_string()]
}

#[test]
fn pairs_are_scored_and_evaluated_to_the_byte() {
    let place = Place::new();
    let (model, data) = (model(), fixture("pairs.jsonl").display().to_string());
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    // Batches have four records: with nine, and more ranks than batches, some have nothing to do.
    let args =
        |command: &'static str| [&[command], &model[..], &["--data", &data, "--threads", "1"]].concat();
    assert_eq!(same(&place, &args("score"), &[2, 3, 5]).lines().count(), 9);
    same(&place, &[&args("eval")[..], &["--json"]].concat(), &[2, 4]);
    same(&place, &args("eval"), &[3]);
    // What is kept was scored by one or by several.
    let calibrated = |output: &'static str| {
        [&["eval", "calibration"], &args("score")[1..], &["--json", "--output", output]].concat()
    };
    let alone = place.run(&calibrated("alone")).ok();
    for _ in 0..2 {
        assert_eq!(output(together(&place, 2, &calibrated("shared"))), alone);
        assert_eq!(place.read("shared/scored.jsonl"), place.read("alone/scored.jsonl"));
    }
    let file = [&args("score")[..], &["--output", "scores.jsonl"]].concat();
    place.run(&file).ok();
    let alone = place.read("scores.jsonl");
    std::fs::remove_file(place.path("scores.jsonl")).unwrap();
    assert_eq!(output(together(&place, 3, &file)), "");
    assert_eq!(place.read("scores.jsonl"), alone);
}

#[test]
fn prompts_are_completed_to_the_byte() {
    let place = Place::new();
    let prompts: String = (0..11).map(|i| format!("This film is number {i} and\n")).collect();
    place.write("prompts.txt", prompts);
    let adapter = concat!(env!("CARGO_MANIFEST_DIR"), "/adapters/tiny-reviews-favourable");
    let head = ["generate", "--base", "tiny-reviews", "--adapter", adapter, "--prompts", "prompts.txt"];
    let head = [&head[..], &["--max-new-tokens", "12"]].concat();
    let more: [&[&str]; 4] = [
        &["--json", "--n", "3", "--compare"],
        &["--compare"],
        &["--reward", "tiny-reviews", "--n", "2", "--json"],
        &["--reward", "length", "--best-of", "3"],
    ];
    for more in more {
        same(&place, &[&head[..], more].concat(), &[3]);
    }
    let alone = place.run(&[&head[..], &["--reward", "length", "--best-of", "3"]].concat());
    let shared = together(&place, 4, &[&head[..], &["--reward", "length", "--best-of", "3"]].concat());
    let said = |ran: &Ran| {
        ran.stderr.lines().filter(|line| line.contains("mean reward")).map(String::from).collect()
    };
    let (alone, shared): (Vec<String>, Vec<String>) = (said(&alone), said(&shared[0]));
    assert!(alone == shared && alone.len() == 1, "{alone:?} {shared:?}");
    // More ranks than prompts.
    let one = ["generate", "--base", "tiny-reviews", "--prompt", "This film", "--max-new-tokens", "5"];
    same(&place, &one, &[2]);
}

#[test]
fn what_an_evaluation_draws_is_shared_and_kept() {
    let place = Place::new();
    let adapter = concat!(env!("CARGO_MANIFEST_DIR"), "/adapters/tiny-reviews-favourable");
    let draw =
        ["--limit", "7", "--max-new-tokens", "12", "--seed", "3", "--prompts", "tiny-reviews/prompts.jsonl"];
    let win = [
        "eval",
        "win-rate",
        "--base",
        "tiny-reviews",
        "--adapter",
        adapter,
        "--json",
        "--judge",
        "tiny-reviews",
    ];
    let frontier =
        ["eval", "frontier", adapter, "--base", "tiny-reviews", "--json", "--reward", "tiny-reviews"];
    for (name, head, more) in [
        ("win-rate", &win[..], &["--best-of", "2", "--best-of-by", "length", "--temperature", "0,1"][..]),
        ("frontier", &frontier[..], &["--samples", "2"][..]),
    ] {
        let args = |output: &'static str| [head, &draw, more, &["--output", output]].concat();
        let alone = place.run(&args("alone")).ok();
        assert_eq!(output(together(&place, 3, &args("shared"))), alone, "{name}");
        for file in ["samples.jsonl", "scores.jsonl", &format!("{name}.json"), &format!("{name}.csv")] {
            let read = |run: &str| place.read(&format!("{run}/{file}"));
            assert_eq!(read("shared"), read("alone"), "{name}: {file}");
        }
        // Cut in the middle, other ranks go on.
        let samples = place.read("shared/samples.jsonl");
        place.write("shared/samples.jsonl", &samples[..samples.len() / 2]);
        assert_eq!(output(together(&place, 2, &args("shared"))), alone, "{name}");
        assert_eq!(place.read("shared/samples.jsonl").len(), samples.len());
        for run in ["alone", "shared"] {
            std::fs::remove_dir_all(place.path(run)).unwrap();
        }
    }
}

#[test]
fn a_file_that_one_rank_lacks_and_other_arguments_end_all() {
    let place = Place::new();
    let model = model();
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    for rank in 0..2 {
        std::fs::create_dir_all(place.path(&format!("rank-{rank}"))).unwrap();
    }
    let pairs = std::fs::read_to_string(fixture("pairs.jsonl")).unwrap();
    place.write("rank-0/pairs.jsonl", &pairs);
    let args = [&["score"], &model[..], &["--data", "pairs.jsonl"]].concat();
    let directory = |rank: usize| place.path(&format!("rank-{rank}"));
    let (ran, _) = ended(start_in(&place, 2, directory, |_| args.clone()));
    assert!(ran.iter().all(|ran| ran.code != Some(0) && ran.stdout.is_empty()));
    assert!(ran[1].stderr.contains("pairs.jsonl"), "{}", ran[1].stderr);
    assert!(
        ran[0].stderr.contains("rank 1 of 2 (host ") && ran[0].stderr.contains("pairs.jsonl"),
        "{}",
        ran[0].stderr
    );
    // Other records.
    place.write("rank-1/pairs.jsonl", pairs.lines().skip(1).collect::<Vec<_>>().join("\n"));
    let (ran, _) = ended(start_in(&place, 2, directory, |_| args.clone()));
    for ran in ran {
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
        assert!(
            ran.stderr.contains("rank 1 of 2 (host ") && ran.stderr.contains("in what it reads"),
            "{}",
            ran.stderr
        );
    }
    place.write("rank-1/pairs.jsonl", &pairs);
    let without = [&["score"], &model[..2], &["--data", "pairs.jsonl"]].concat();
    let (ran, _) =
        ended(start_in(&place, 2, directory, |rank| if rank == 0 { args.clone() } else { without.clone() }));
    assert!(ran.iter().all(|ran| ran.stderr.contains("in its arguments")), "{}", ran[0].stderr);
    let (ran, _) = ended(start(&place, 2, &["eval", "learning-curve", "x", "--data", "y"]));
    assert!(
        ran.iter().all(
            |ran| ran.code == Some(2) && ran.stderr.contains("`eval learning-curve` runs as one process")
        )
    );
}

#[test]
fn another_reward_model_on_one_rank_is_refused_by_name() {
    let place = Place::new();
    let base = fixture("models/llama");
    for (rank, rate) in [(0, 1e-3), (1, 2e-3)] {
        let rewards = [
            ("objective", json!({"loss_type": "reward"})),
            ("train.max_steps", json!(2)),
            ("train.learning_rate", json!(rate)),
        ];
        place.recipe(&base, &fixture("pairs.jsonl"), &rewards);
        place.run(&["train", "-c", "run.yaml", "--set", &format!("output_dir=rank-{rank}/judge")]).ok();
    }
    let base = base.display().to_string();
    let args = [
        "generate",
        "--base",
        &base,
        "--prompt",
        "a",
        "--n",
        "2",
        "--max-new-tokens",
        "3",
        "--reward",
        "adapter:judge/adapter",
    ];
    let alike = |_| place.path("rank-0");
    output(ended(start_in(&place, 2, alike, |_| args.to_vec())).0);
    let (ran, _) = ended(start_in(&place, 2, |rank| place.path(&format!("rank-{rank}")), |_| args.to_vec()));
    for ran in ran {
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
        assert!(ran.stderr.contains("rank 1 of 2 (host "), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("differs from rank 0 in its reward (the files of its adapter)"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_rank_that_is_killed_while_prompts_are_completed_ends_all() {
    let place = Place::new();
    let prompts: String = (0..4000).map(|i| format!("This film is number {i} and\n")).collect();
    place.write("prompts.txt", prompts);
    let args = [
        "generate",
        "--base",
        "tiny-reviews",
        "--prompts",
        "prompts.txt",
        "--max-new-tokens",
        "200",
        "--temperature",
        "1",
    ];
    for killed in 0..2 {
        let mut children = start(&place, 2, &args);
        let mut line = String::new();
        BufReader::new(children[0].stdout.take().unwrap()).read_line(&mut line).unwrap();
        let begun = Instant::now();
        signal(&children[killed], "-KILL");
        let (ran, _) = ended(children);
        assert!(begun.elapsed() < Duration::from_secs(30));
        let other = &ran[1 - killed];
        assert_eq!(other.code, Some(1), "{}", other.stderr);
        assert!(other.stderr.contains(&format!("rank {killed} of 2 (host ")), "{}", other.stderr);
        assert!(other.stderr.contains("Start all ranks again"), "{}", other.stderr);
    }
}

/// Two stages and a third on top, with so much accumulation.
fn staged(place: &Place, accumulation: usize) {
    let stages = json!([
        "preferred_ft",
        {"name": "dpo", "objective": {"beta": 0.3}, "train": {"max_steps": 4}},
        {"name": "again", "adapter": "stack", "lora": {"r": 2}, "objective": {"loss_type": "ipo"}, "train": {"max_steps": 3}},
    ]);
    place.llama_recipe(&[
        ("data.eval", json!(0.3)),
        ("train.save_steps", json!(2)),
        ("train.threads", json!(1)),
        ("train.max_steps", json!(5)),
        ("train.per_device_train_batch_size", json!(1)),
        ("train.gradient_accumulation_steps", json!(accumulation)),
        ("stages", stages),
    ]);
}

const STAGES: [&str; 3] = ["1-preferred_ft", "2-dpo", "3-again"];

fn same_stages(place: &Place, run: &str) {
    assert_eq!(place.adapter(run), place.adapter("whole"));
    for stage in STAGES {
        let (run, whole) = (format!("{run}/{stage}"), format!("whole/{stage}"));
        assert_eq!(place.adapter(&run), place.adapter(&whole), "{run}");
        assert_eq!(place.metrics(&run), place.metrics(&whole), "{run}");
    }
}

#[test]
fn stages_have_the_bytes_of_one_rank_also_where_the_directory_is_not_shared() {
    let place = Place::new();
    staged(&place, 6);
    place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]).ok();
    staged(&place, 3);
    output(together(&place, 2, &["train", "-c", "run.yaml"]));
    same_stages(&place, "run");
    // Each rank in a directory of its own, and an output_dir beside it.
    for rank in 0..3 {
        std::fs::create_dir_all(place.path(&format!("rank-{rank}"))).unwrap();
    }
    staged(&place, 2);
    let args = vec!["train", "-c", "../run.yaml", "--set", "output_dir=run"];
    let (ran, _) = ended(start_in(&place, 3, |rank| place.path(&format!("rank-{rank}")), |_| args.clone()));
    output(ran);
    same_stages(&place, "rank-0/run");
    assert!(!place.path("rank-1/run/config.yaml").exists() && !place.path("rank-1/run/3-again").exists());
    // A machine that was handed an adapter has finished nothing; files of the system are left out.
    place.write("rank-2/run/1-preferred_ft/adapter/.nfs01", "x");
    let args = vec!["train", "-c", "../run.yaml", "--set", "output_dir=run", "--auto-resume"];
    let turned = |rank: usize| place.path(&format!("rank-{}", 2 - rank));
    output(ended(start_in(&place, 3, turned, |_| args.clone())).0);
    same_stages(&place, "rank-2/run");
    assert!(!place.path("rank-1/run/1-preferred_ft/adapter/.nfs01").exists());
}

#[test]
fn stages_that_are_killed_go_on_with_another_number_of_ranks() {
    let place = Place::new();
    staged(&place, 6);
    place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]).ok();
    staged(&place, 2);
    let args = ["train", "-c", "run.yaml", "--auto-resume"];
    for (stage, (size, killed)) in STAGES.into_iter().zip([(3, 1), (2, 0), (2, 1)]) {
        let children = start(&place, size, &args);
        let begun = Instant::now();
        while !place.path(&format!("run/{stage}/checkpoints/step-2")).exists() {
            assert!(begun.elapsed() < Duration::from_secs(60), "stage {stage} does not begin");
            std::thread::sleep(Duration::from_millis(2));
        }
        signal(&children[killed], "-KILL");
        let (ran, _) = ended(children);
        // The last stage may have ended before.
        for ran in ran
            .iter()
            .enumerate()
            .filter(|(rank, ran)| *rank != killed && ran.code != Some(0))
            .map(|(_, ran)| ran)
        {
            assert!(ran.stderr.contains(&format!("rank {killed} of {size} (host ")), "{}", ran.stderr);
        }
    }
    // Also of stages that began after that on two ranks, the accumulation is that of three.
    output(together(&place, 2, &args));
    same_stages(&place, "run");
}

/// A run that draws, of six steps with eight completions each.
fn drawing(place: &Place, accumulation: usize, objective: &Value, more: &[(&str, Value)]) {
    let prompts: String =
        (0..9).map(|i| json!({"prompt": format!("Question {i}: where is it?")}).to_string() + "\n").collect();
    place.write("prompts.jsonl", prompts);
    let mut settings = vec![
        ("objective", objective.clone()),
        ("rollout", json!({"reward": "length", "num_generations": 2, "max_completion_length": 5})),
        ("train.save_steps", json!(1)),
        ("train.save_total_limit", Value::Null),
        ("train.max_steps", json!(5)),
        ("train.threads", json!(1)),
        ("train.warmup_steps", json!(0)),
        ("lora.lora_dropout", json!(0.0)),
        ("train.per_device_train_batch_size", json!(2)),
        ("train.gradient_accumulation_steps", json!(accumulation)),
    ];
    settings.extend_from_slice(more);
    place.recipe(&fixture("models/llama"), &place.path("prompts.jsonl"), &settings);
}

#[test]
fn rollouts_have_the_bytes_of_one_rank() {
    let prefix = [
        ("lora.prefix_tuning", json!({"num_virtual_tokens": 4})),
        ("lora.r", json!(16)),
        ("lora.lora_alpha", json!(32)),
    ];
    let command = [("rollout.reward", json!("command:awk '{print length($0) % 7}'"))];
    for (objective, more) in [
        (json!({"loss_type": "grpo", "num_iterations": 2, "beta": 0.1}), &[][..]),
        (json!({"loss_type": "grpo"}), &command[..]),
        (json!({"loss_type": "rloo", "beta": 0.1}), &prefix[..]),
        (json!({"loss_type": "ppo", "num_mini_batches": 2, "adap_kl_ctrl": true}), &[][..]),
        (json!({"loss_type": "sigmoid", "beta": 0.1}), &[][..]),
    ] {
        let place = Place::new();
        drawing(&place, 6, &objective, more);
        place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]).ok();
        for size in [2, 3] {
            drawing(&place, 6 / size, &objective, more);
            let run = format!("run-{size}");
            output(together(
                &place,
                size,
                &["train", "-c", "run.yaml", "--set", &format!("output_dir={run}")],
            ));
            assert_eq!(place.adapter(&run), place.adapter("whole"), "{objective} on {size} ranks");
            assert_eq!(place.metrics(&run), place.metrics("whole"), "{objective} on {size} ranks");
        }
        // On with another number of ranks, between the updates of a generation.
        for step in 4..=5 {
            std::fs::remove_dir_all(place.path(&format!("run-3/checkpoints/step-{step}"))).unwrap();
        }
        std::fs::remove_dir_all(place.path("run-3/adapter")).unwrap();
        output(together(&place, 2, &["train", "-c", "run.yaml", "--resume", "--set", "output_dir=run-3"]));
        assert_eq!(place.adapter("run-3"), place.adapter("whole"), "{objective} resumed");
        assert_eq!(place.metrics("run-3"), place.metrics("whole"), "{objective} resumed");
    }
}

#[test]
fn a_dry_run_of_ranks_counts_the_gradients_that_they_keep() {
    let place = Place::new();
    place.llama_recipe(&[("train.gradient_accumulation_steps", json!(8))]);
    let ran = together(&place, 4, &["train", "-c", "run.yaml", "--dry-run"]);
    assert!(ran[0].stderr.contains("4 ranks, 4 of them on this machine"), "{}", ran[0].stderr);
    // 8 × 4 micro-batches on 4 ranks.
    assert!(ran[0].stderr.contains("keeps the gradients of about 8 micro-batches"), "{}", ran[0].stderr);
    output(ran);
    assert!(!place.path("run").exists());
}
