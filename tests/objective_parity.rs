//! The loss, its gradient and its rewards against TRL (`tests/parity/optim_cases.py` made the numbers, in f64).
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;

use dpo_lora::objective::{Ipo, Objective, Role, Scored, Sigmoid};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    chosen_tokens: usize,
    rejected_tokens: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    loss: String,
    beta: f64,
    label_smoothing: f64,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    /// Policy chosen, policy rejected, reference chosen, reference rejected.
    logps: [f64; 4],
    loss: f64,
    d_chosen: f64,
    d_rejected: f64,
    #[serde(rename = "rewards/chosen")]
    reward_chosen: f64,
    #[serde(rename = "rewards/rejected")]
    reward_rejected: f64,
    #[serde(rename = "rewards/margins")]
    margin: f64,
}

fn assert_close(got: f64, expected: f64, what: &str) {
    let tolerance = 1e-12 * expected.abs().max(1e-3);
    assert!((got - expected).abs() <= tolerance, "{what}: {got} instead of {expected}");
}

/// The objective of a case: the loss with those of its parameters that it has.
fn objective(case: &Case) -> Option<Objective> {
    let (beta, label_smoothing) = (case.beta, case.label_smoothing);
    match case.loss.as_str() {
        // TRL's own `sigmoid` ignores label_smoothing; the smoothed loss stands under `conservative`.
        "sigmoid" => Some(Objective::new(Sigmoid { beta, label_smoothing: 0.0 })),
        "conservative" => Some(Objective::new(Sigmoid { beta, label_smoothing })),
        "ipo" => Some(Objective::new(Ipo { beta })),
        _ => None,
    }
}

#[test]
fn losses_agree_with_trl() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/dpo_loss.json"))
        .unwrap();
    let fixture: Fixture = serde_json::from_str(&text).unwrap();
    let mut compared = BTreeMap::new();
    for case in &fixture.cases {
        let Some(objective) = objective(case) else { continue };
        for row in &case.rows {
            let [chosen, rejected, ref_chosen, ref_rejected] = row.logps;
            let scored = |role, logp, reference, tokens| Scored {
                group: 0,
                role,
                label: 1.0,
                logp,
                ref_logp: Some(reference),
                tokens,
            };
            let pair = [
                scored(Role::Chosen, chosen, ref_chosen, fixture.chosen_tokens),
                scored(Role::Rejected, rejected, ref_rejected, fixture.rejected_tokens),
            ];
            let got = objective.weigh(&pair).unwrap();
            let rewards = pair.map(|completion| objective.reward(&completion).unwrap());
            let what = |figure: &str| format!("{} beta {} {:?} {figure}", case.loss, case.beta, row.logps);
            assert_close(got.losses[0], row.loss, &what("loss"));
            assert_close(got.d_logps[0], row.d_chosen, &what("d_chosen"));
            assert_close(got.d_logps[1], row.d_rejected, &what("d_rejected"));
            assert_close(rewards[0], row.reward_chosen, &what("reward_chosen"));
            assert_close(rewards[1], row.reward_rejected, &what("reward_rejected"));
            assert_close(rewards[0] - rewards[1], row.margin, &what("margin"));
            *compared.entry(case.loss.as_str()).or_insert(0) += 1;
        }
    }
    assert_eq!(compared, BTreeMap::from([("sigmoid", 28), ("conservative", 21), ("ipo", 14)]));
}
