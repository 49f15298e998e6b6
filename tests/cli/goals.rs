//! Each loss trains the embedded base to its own goal in a few steps: at least 90 % of held-out pairs are told apart, and a
//! loss that imitates lowers the perplexity of held-out chosen answers.
//!
//! `cargo test --release --test cli goals -- --nocapture` prints the table of `docs/src/losses.md`.
#![allow(clippy::print_stdout)]

use dpo_lora::objective::{Loss, Needs, Records};
use serde_json::{Value, json};

use crate::common::program::Place;

/// Parameters of the losses, where their defaults are not for so few steps.
fn objective(name: &str) -> Value {
    let mut section = match name {
        "sft" | "unlikelihood" | "reward" => json!({}),
        "tpo_l" => json!({"beta": 2.0}),
        "exo_pair" => json!({"beta": 0.5, "label_smoothing": 1e-3}),
        "robust" => json!({"beta": 0.5, "label_smoothing": 0.1}),
        "sppo_hard" => json!({"beta": 0.1}),
        "sigmoid_norm" => json!({"beta": 5.0}),
        "simpo" => json!({"beta": 2.0, "cpo_alpha": 0.0}),
        "alphapo" => json!({"beta": 2.0, "alpha": 0.1}),
        // At τ = 0.05 the slope at a margin of 0 has the other sign: from there the loss pushes margins down.
        "discopop" => json!({"beta": 0.5, "discopop_tau": 1.0}),
        _ => json!({"beta": 0.5}),
    };
    section["loss_type"] = name.into();
    section
}

/// Writes pairs of the embedded data as the records that the losses take.
fn write_data(place: &Place) {
    let path = format!("{}/examples/tiny-reviews/train.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let pairs: Vec<Value> = text.lines().take(320).map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines = |name: &str, records: Vec<Value>| {
        let lines: Vec<String> = records.iter().map(ToString::to_string).collect();
        place.write(name, lines.join("\n"));
    };
    let judged = pairs.iter().flat_map(|pair| {
        [("chosen", true), ("rejected", false)]
            .map(|(side, label)| json!({"prompt": pair["prompt"], "completion": pair[side], "label": label}))
    });
    lines("judged.jsonl", judged.collect());
    let ranked = pairs
        .iter()
        .map(|pair| json!({"prompt": pair["prompt"], "completions": [pair["chosen"], pair["rejected"]]}));
    lines("ranked.jsonl", ranked.collect());
    // The gold answer is the chosen one of another pair, which is of the same kind.
    let gold = pairs.iter().cycle().skip(1).map(|other| other["chosen"].clone());
    let triples = pairs.iter().cloned().zip(gold).map(|(mut pair, gold)| {
        pair["reference"] = gold;
        pair
    });
    lines("triples.jsonl", triples.collect());
    lines("pairs.jsonl", pairs);
}

/// What an adapter does to 100 held-out pairs: the share told apart by reward, and perplexities before and after. A reward
/// model has no perplexities.
fn scored(place: &Place) -> [f64; 3] {
    let args = ["score", "--base", "tiny-reviews", "--adapter", "run/adapter", "--data", "held_out.jsonl"];
    let lines = place.run(&args).json();
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
    if lines.iter().all(|line| line["chosen_reward"].is_f64()) {
        let right = |line: &&Value| number(line, "chosen_reward") > number(line, "rejected_reward");
        return [lines.iter().filter(right).count() as f64 / lines.len() as f64, f64::NAN, f64::NAN];
    }
    let moved = |line: &Value, side: &str| {
        number(line, &format!("{side}_logp")) - number(line, &format!("ref_{side}_logp"))
    };
    let right = lines.iter().filter(|line| moved(line, "chosen") > moved(line, "rejected")).count();
    let tokens: f64 = lines.iter().map(|line| number(line, "chosen_tokens")).sum();
    let perplexity = |key| (-lines.iter().map(|line| number(line, key)).sum::<f64>() / tokens).exp();
    [right as f64 / lines.len() as f64, perplexity("ref_chosen_logp"), perplexity("chosen_logp")]
}

#[test]
fn every_loss_reaches_its_goal_on_the_quickstart() {
    let place = Place::new();
    write_data(&place);
    let held_out =
        std::fs::read_to_string(format!("{}/examples/tiny-reviews/eval.jsonl", env!("CARGO_MANIFEST_DIR")));
    place.write("held_out.jsonl", held_out.unwrap().lines().take(100).collect::<Vec<_>>().join("\n"));
    println!("| loss | told apart | perplexity of chosen answers, before and after |\n|---|---|---|");
    // Losses of completions that the policy draws need a reward; cli/on_policy.rs runs them.
    for loss in Loss::all().into_iter().filter(|loss| loss.needs().records != Records::Prompts) {
        let (name, Needs { records, .. }) = (loss.name(), loss.needs());
        let data = match records {
            Records::Judged => "judged.jsonl",
            Records::Ranked => "ranked.jsonl",
            Records::Triples => "triples.jsonl",
            Records::Pairs | Records::Texts | Records::Prompts => "pairs.jsonl",
        };
        let batch = if records == Records::Judged { 16 } else { 8 };
        let recipe = json!({
            "output_dir": "run", "model": {"base": "tiny-reviews"}, "lora": {"r": 8, "lora_alpha": 16}, "data": {"train": data},
            "objective": objective(&name),
            "train": {
                "max_steps": 28, "per_device_train_batch_size": batch, "learning_rate": 3e-3, "lr_scheduler_type": "cosine",
                "warmup_steps": 2
            }
        });
        place.write("run.yaml", recipe.to_string());
        place.run(&["train", "-q", "-c", "run.yaml", "--overwrite"]).ok();
        let [share, before, after] = scored(&place);
        println!("| `{name}` | {:.0} % | {before:.2}, {after:.2} |", 100.0 * share);
        assert!(share >= 0.9, "{name}: {share}");
        assert!(name != "sft" || after < before, "{name}: {before} {after}");
    }
}
