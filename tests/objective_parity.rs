//! The loss, its gradient and its rewards against TRL (`tests/parity/optim_cases.py` made the numbers, in f64).
#![allow(missing_docs, clippy::unwrap_used)]

use dpo_lora::objective::{ObjectiveConfig, PairLogps};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
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

#[test]
fn sigmoid_loss_agrees_with_trl() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/dpo_loss.json"))
        .unwrap();
    let fixture: Fixture = serde_json::from_str(&text).unwrap();
    let mut compared = 0;
    for case in &fixture.cases {
        // TRL's own `sigmoid` ignores label_smoothing; the smoothed loss stands under `conservative`.
        let label_smoothing = match case.loss.as_str() {
            "sigmoid" => 0.0,
            "conservative" => case.label_smoothing,
            _ => continue,
        };
        let objective = ObjectiveConfig { beta: case.beta, label_smoothing, ..ObjectiveConfig::default() };
        for row in &case.rows {
            let [chosen, rejected, ref_chosen, ref_rejected] = row.logps;
            let got = objective.pair(&PairLogps { chosen, rejected, ref_chosen, ref_rejected }, 1.0);
            let what = |figure: &str| format!("{} beta {} {:?} {figure}", case.loss, case.beta, row.logps);
            assert_close(got.loss, row.loss, &what("loss"));
            assert_close(got.d_chosen, row.d_chosen, &what("d_chosen"));
            assert_close(got.d_rejected, row.d_rejected, &what("d_rejected"));
            assert_close(got.reward_chosen, row.reward_chosen, &what("reward_chosen"));
            assert_close(got.reward_rejected, row.reward_rejected, &what("reward_rejected"));
            assert_close(got.margin(), row.margin, &what("margin"));
            compared += 1;
        }
    }
    assert!(compared >= 40, "the fixture lost its cases: {compared} rows compared");
}
