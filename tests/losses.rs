//! Every loss trains the quickstart's base to its own goal. The table of `docs/src/losses.md` is what this prints:
//!
//!     cargo test --release --test losses -- --nocapture
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::path::Path;
use std::time::Instant;

use dpo_lora::data::{Input, records};
use dpo_lora::files::CacheChoice;
use dpo_lora::objective::{
    Alphapo, Discopop, ExoPair, Objective, ObjectiveConfig, Records, Robust, SigmoidNorm, Simpo,
};
use dpo_lora::toolkit::embedded;
use dpo_lora::train::schedule::ScheduleKind;
use dpo_lora::{Base, Loss, Pairs, TrainConfig, Trainer};
use serde_json::{Value, json};

/// Pairs to train on: 40 steps of 8.
const PAIRS: usize = 320;
const BATCH: usize = 8;
const RATE: f64 = 2e-3;

/// Held-out pairs. Of 100, 90 are more than chance by eight standard errors.
const HELD_OUT: usize = 100;
const GOAL: f64 = 0.9;

/// The first records of an embedded file.
fn rows(file: &str, count: usize) -> Vec<Value> {
    let path = embedded::path(&format!("tiny-reviews/{file}")).unwrap().unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<Value> = text.lines().take(count).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), count);
    rows
}

/// The records that a loss takes, made of pairs.
fn made_of(pair: &Value, kind: Records) -> Vec<Value> {
    let (prompt, chosen, rejected) = (&pair["prompt"], &pair["chosen"], &pair["rejected"]);
    match kind {
        Records::Pairs => vec![pair.clone()],
        Records::Ranked => vec![json!({"prompt": prompt, "completions": [chosen, rejected]})],
        Records::Judged => [(chosen, true), (rejected, false)]
            .map(|(completion, label)| json!({"prompt": prompt, "completion": completion, "label": label}))
            .to_vec(),
        Records::Texts => vec![json!({"prompt": prompt, "completion": chosen})],
    }
}

fn tokenized(base: &Base, rows: &[Value]) -> Pairs {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    base.tokenize(&records::load(&[Input::text("rows", lines.join("\n"))]).unwrap()).unwrap()
}

/// Every loss, with the parameters of its paper where TRL's defaults are others.
fn losses() -> Vec<Loss> {
    let set = |loss: Loss| -> Loss {
        match loss {
            Loss::ExoPair(_) => ExoPair { label_smoothing: 1e-3, ..ExoPair::default() }.into(),
            Loss::Robust(_) => Robust { label_smoothing: 0.1, ..Robust::default() }.into(),
            Loss::SigmoidNorm(_) => SigmoidNorm { beta: 5.0, ..SigmoidNorm::default() }.into(),
            Loss::Simpo(_) => {
                Simpo { beta: 2.5, simpo_gamma: 1.375, cpo_alpha: 0.0, ..Simpo::default() }.into()
            }
            Loss::Alphapo(_) => {
                Alphapo { beta: 2.5, alpha: 0.25, simpo_gamma: 0.25, ..Alphapo::default() }.into()
            }
            // At its default, 0.05, the margin falls from 0, where the loss of the paper rises.
            Loss::Discopop(_) => Discopop { discopop_tau: 0.2, ..Discopop::default() }.into(),
            other => other,
        }
    };
    Loss::all().into_iter().map(set).collect()
}

/// What held-out pairs say of a policy.
struct Found {
    accuracy: f64,
    margin: f64,
    kl_per_token: f64,
    perplexity: f64,
}

fn measured(base: &Base, adapter: Option<&Path>, held_out: &Pairs) -> Found {
    let adapted = match adapter {
        Some(path) => base.with_adapter(path).unwrap(),
        None => base.with_adapters(&[] as &[&Path], Default::default(), false).unwrap(),
    };
    // DPO's rewards in nats whatever the loss, so that the rows of the table compare.
    let found = adapted.evaluate_by(&Objective::default(), held_out).unwrap();
    let metrics = found.metrics();
    Found {
        accuracy: metrics.logp_accuracy().unwrap(),
        margin: metrics.margin().unwrap_or(0.0) / 0.1,
        kl_per_token: metrics.kl_per_token().unwrap_or(0.0),
        perplexity: metrics.chosen().perplexity().unwrap(),
    }
}

fn trained(base: &Base, loss: &Loss, pairs: &[Value], output: &Path) {
    let kind = loss.needs().records;
    let records: Vec<Value> = pairs.iter().flat_map(|pair| made_of(pair, kind)).collect();
    let train = TrainConfig {
        num_train_epochs: 1.0,
        per_device_train_batch_size: BATCH * records.len() / pairs.len(),
        learning_rate: RATE,
        lr_scheduler_type: ScheduleKind::Linear,
        warmup_ratio: 0.1,
        reference_cache: CacheChoice::Off,
        ..TrainConfig::default()
    };
    Trainer::builder(base, tokenized(base, &records))
        .loss(loss.clone())
        .training(train)
        .output(output)
        .run()
        .unwrap();
}

#[test]
fn every_loss_reaches_its_goal() {
    let place = tempfile::tempdir().unwrap();
    let base = Base::open("tiny-reviews").unwrap();
    let (pairs, held_out) = (rows("train.jsonl", PAIRS), tokenized(&base, &rows("eval.jsonl", HELD_OUT)));
    let before = measured(&base, None, &held_out);
    println!(
        "| loss | accuracy | margin, nats | KL, nats per token | perplexity of chosen | seconds |\n|---|---|---|---|---|---|"
    );
    println!("| none | {:.0} % | 0.0 | 0.00 | {:.2} | |", 100.0 * before.accuracy, before.perplexity);
    let mut missed = Vec::new();
    for loss in losses() {
        let name = ObjectiveConfig::from(&Objective::new(loss.clone())).loss_type.join(", ");
        let (start, output) = (Instant::now(), place.path().join(&name));
        trained(&base, &loss, &pairs, &output);
        let seconds = start.elapsed().as_secs_f64();
        let after = measured(&base, Some(&output.join("adapter")), &held_out);
        println!(
            "| `{name}` | {:.0} % | {:.1} | {:.2} | {:.2} | {seconds:.1} |",
            100.0 * after.accuracy,
            after.margin,
            after.kl_per_token,
            after.perplexity
        );
        let reached = match loss.needs().records {
            Records::Texts => after.perplexity < before.perplexity,
            Records::Pairs | Records::Ranked | Records::Judged => after.accuracy >= GOAL,
        };
        if !reached {
            missed.push(name);
        }
    }
    assert!(before.accuracy < 0.6, "{}", before.accuracy);
    assert!(missed.is_empty(), "{missed:?} did not reach their goals");
}
