//! Every loss, its gradient and its metrics compared with TRL's own code (`tests/parity/loss_cases.py` made the
//! numbers, in f64), and the conservative DPO loss as a sum of two of TRL's (`tests/parity/optim_cases.py`).
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use dpo_lora::objective::{Loss, Metrics, Objective, ObjectiveConfig, Records, Role, Scored, Sigmoid};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// The `objective` section, without `loss_type`.
    settings: BTreeMap<String, Value>,
    /// `pairs`, `triples`, `judged` or `ranked`.
    kind: String,
    /// Log-probs. For pairs, all chosen completions come first; for judged answers, the mismatched ones come last.
    policy: Vec<f64>,
    reference: Vec<f64>,
    tokens: Vec<usize>,
    #[serde(default)]
    labels: Vec<bool>,
    #[serde(default)]
    gold: Vec<f64>,
    #[serde(default)]
    gold_tokens: Vec<usize>,
    #[serde(default)]
    gold_gradient: Vec<f64>,
    #[serde(default)]
    prompt: Vec<f64>,
    #[serde(default)]
    prompt_tokens: Vec<usize>,
    loss: f64,
    gradient: Vec<f64>,
    #[serde(default)]
    prompt_gradient: Vec<f64>,
    metrics: BTreeMap<String, f64>,
}

impl Case {
    fn objective(&self, loss: &str) -> Objective {
        let mut section = self.settings.clone();
        section.insert("loss_type".into(), loss.into());
        let text = serde_json::to_string(&section).unwrap();
        serde_yaml::from_str::<ObjectiveConfig>(&text).unwrap().resolve().unwrap()
    }

    /// Returns the batch, and TRL's derivative of its loss by each log-prob.
    fn batch(&self) -> (Vec<Scored>, Vec<f64>) {
        let scored = |group, role, at: usize| Scored {
            group,
            role,
            label: 1.0,
            margin: 0.0,
            logp: self.policy[at],
            ref_logp: Some(self.reference[at]),
            tokens: self.tokens[at],
        };
        let mut all = Vec::new();
        match self.kind.as_str() {
            "ranked" => {
                all.extend(
                    (0..self.policy.len()).map(|at| (scored(0, Role::Rank(at), at), self.gradient[at])),
                );
            }
            "judged" => {
                for (at, desirable) in self.labels.iter().enumerate() {
                    let role = if *desirable { Role::Desirable } else { Role::Undesirable };
                    all.push((scored(at, role, at), self.gradient[at]));
                }
                all.extend(
                    (self.labels.len()..self.policy.len()).map(|at| (scored(at, Role::Mismatched, at), 0.0)),
                );
            }
            "pairs" | "triples" => {
                let pairs = self.policy.len() / 2;
                for i in 0..pairs {
                    all.push((scored(i, Role::Chosen, i), self.gradient[i]));
                    all.push((scored(i, Role::Rejected, pairs + i), self.gradient[pairs + i]));
                    if let Some(logp) = self.gold.get(i) {
                        let gold = Scored { tokens: self.gold_tokens[i], ..scored(i, Role::Gold, i) };
                        all.push((Scored { logp: *logp, ..gold }, self.gold_gradient[i]));
                    }
                    if let Some(logp) = self.prompt.get(i) {
                        let tokens = self.prompt_tokens[i];
                        let prompt = scored(i, Role::Prompt, i);
                        all.push((Scored { logp: *logp, tokens, ..prompt }, self.prompt_gradient[i]));
                    }
                }
            }
            other => panic!("{other} is no kind of record"),
        }
        all.into_iter().unzip()
    }
}

fn fixture(name: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn assert_close(got: f64, expected: f64, what: &str) {
    let tolerance = 1e-9 * expected.abs().max(1e-4);
    assert!((got - expected).abs() <= tolerance, "{what}: {got} instead of {expected}");
}

fn compare(loss: &str, case: &Case) {
    let objective = case.objective(loss);
    let (batch, gradient) = case.batch();
    let found = objective.weigh(&batch).unwrap();
    let mut metrics = Metrics::default();
    objective.measure(&batch, &found, &mut metrics);
    let records = metrics.groups() as f64;
    let what = format!("{loss} {:?} policy {:?}", case.settings, case.policy);
    assert_close(metrics.loss().unwrap(), case.loss, &what);
    assert_eq!(found.d_logps.len(), gradient.len());
    for (i, (got, expected)) in found.d_logps.iter().zip(gradient).enumerate() {
        assert_close(got / records, expected, &format!("{what} gradient {i}"));
    }
    let means: BTreeMap<&str, f64> = metrics.means().into_iter().collect();
    for (name, expected) in &case.metrics {
        // `sft` has no reward and none of these figures; TRL computes them from a reference nevertheless.
        match means.get(name.as_str()) {
            Some(got) => assert_close(*got, *expected, &format!("{what} {name}")),
            None => assert!(loss == "sft" && name.starts_with("rewards/"), "{what} has no {name}"),
        }
    }
}

#[test]
fn every_loss_agrees_with_trl() {
    let families: BTreeMap<String, Vec<Case>> = serde_json::from_str(&fixture("losses.json")).unwrap();
    for (loss, cases) in &families {
        assert_eq!(cases.len(), 50, "{loss}");
        cases.iter().for_each(|case| compare(loss, case));
    }
    // Every case of the fixture is used, and every loss has cases; `tests/reward_model.rs` follows a whole run of reward,
    // and `tests/on_policy.rs` has the losses of drawn completions.
    let of_logps = |loss: &&Loss| !loss.needs().rewards && loss.on_policy().is_none();
    let ours: BTreeSet<String> = Loss::all().iter().filter(of_logps).map(Loss::name).collect();
    assert_eq!(families.into_keys().collect::<BTreeSet<_>>(), ours);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Modified {
    settings: BTreeMap<String, Value>,
    head: Vec<f64>,
    tail: Vec<f64>,
    ref_head: Vec<f64>,
    ref_tail: Vec<f64>,
    /// Σ (log p − log Σ p²) of head and tail.
    aligned: Vec<f64>,
    tokens: Vec<usize>,
    loss: f64,
    d_head: Vec<f64>,
    d_tail: Vec<f64>,
    metrics: BTreeMap<String, f64>,
}

/// `ld_alpha` and `use_weighting` with every loss of TRL's that has them.
#[test]
fn every_modified_loss_agrees_with_trl() {
    let families: BTreeMap<String, Vec<Modified>> = serde_json::from_str(&fixture("modifiers.json")).unwrap();
    let of_pairs = |loss: &Loss| loss.needs().reference && loss.needs().records == Records::Pairs;
    let ours: BTreeSet<String> = Loss::all().iter().filter(|loss| of_pairs(loss)).map(Loss::name).collect();
    assert_eq!(families.keys().cloned().collect::<BTreeSet<_>>(), ours);
    for (loss, cases) in &families {
        assert_eq!(cases.len(), 50, "{loss}");
        for case in cases {
            let mut section = case.settings.clone();
            section.insert("loss_type".into(), loss.as_str().into());
            let text = serde_json::to_string(&section).unwrap();
            let objective = serde_yaml::from_str::<ObjectiveConfig>(&text).unwrap().resolve().unwrap();
            let pairs = case.tokens.len() / 2;
            let (mut batch, mut aligned, mut gradient) = (Vec::new(), Vec::new(), Vec::new());
            for group in 0..pairs {
                let sides = [group, pairs + group];
                let shared = case.tokens[sides[0]].min(case.tokens[sides[1]]);
                let entry = |role, at: usize, logp: &[f64], reference: &[f64], tokens| Scored {
                    group,
                    role,
                    label: 1.0,
                    margin: 0.0,
                    logp: logp[at],
                    ref_logp: Some(reference[at]),
                    tokens,
                };
                for (role, at) in [Role::Chosen, Role::Rejected].into_iter().zip(sides) {
                    batch.push(entry(role, at, &case.head, &case.ref_head, shared));
                    // The sum over head and tail is what counts.
                    aligned.push(case.aligned[at]);
                    gradient.push(case.d_head[at]);
                }
                for (of, at) in sides.into_iter().enumerate() {
                    batch.push(entry(
                        Role::Tail(of),
                        at,
                        &case.tail,
                        &case.ref_tail,
                        case.tokens[at] - shared,
                    ));
                    aligned.push(0.0);
                    gradient.push(case.d_tail[at]);
                }
            }
            // Without ld_alpha a run has no tails.
            if !case.settings.contains_key("ld_alpha") {
                (batch, aligned, gradient) = whole(&batch, &aligned, &gradient);
            }
            let mut found = objective.weigh(&batch).unwrap();
            objective.weight(&batch, &aligned, &mut found);
            let mut metrics = Metrics::default();
            objective.measure(&batch, &found, &mut metrics);
            let what = format!("{loss} {:?} {:?}", case.settings, case.head);
            assert_close(metrics.loss().unwrap(), case.loss, &what);
            let used = batch.iter().map(|entry| entry.tokens > 0);
            for (i, (got, expected)) in found
                .d_logps
                .iter()
                .zip(&gradient)
                .enumerate()
                .zip(used)
                .filter_map(|(x, used)| used.then_some(x))
            {
                assert_close(got / pairs as f64, *expected, &format!("{what} gradient {i}"));
            }
            let means: BTreeMap<&str, f64> = metrics.means().into_iter().collect();
            for (name, expected) in &case.metrics {
                assert_close(means[name.as_str()], *expected, &format!("{what} {name}"));
            }
        }
    }
}

/// A batch without tails: each completion as a whole.
fn whole(batch: &[Scored], aligned: &[f64], gradient: &[f64]) -> (Vec<Scored>, Vec<f64>, Vec<f64>) {
    let mut all = (Vec::new(), Vec::new(), Vec::new());
    for (i, entry) in batch.iter().enumerate().filter(|(_, entry)| !matches!(entry.role, Role::Tail(_))) {
        // Chosen, rejected, and both tails behind them.
        let tail = &batch[i + 2];
        all.0.push(Scored {
            logp: entry.logp + tail.logp,
            ref_logp: entry.ref_logp.zip(tail.ref_logp).map(|(a, b)| a + b),
            tokens: entry.tokens + tail.tokens,
            ..*entry
        });
        all.1.push(aligned[i]);
        all.2.push(gradient[i]);
    }
    all
}

#[derive(Deserialize)]
struct Conservative {
    cases: Vec<Smoothed>,
}

#[derive(Deserialize)]
struct Smoothed {
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
}

/// TRL's own `sigmoid` ignores `label_smoothing`; the smoothed loss is the sum of two of its losses.
#[test]
fn the_conservative_loss_agrees_with_trl() {
    let fixture: Conservative = serde_json::from_str(&fixture("dpo_loss.json")).unwrap();
    let mut compared = 0;
    for case in fixture.cases {
        assert_eq!(case.loss, "conservative");
        let (beta, label_smoothing) = (case.beta, case.label_smoothing);
        let objective = Objective::new(Sigmoid { beta, label_smoothing, ..Sigmoid::default() });
        for row in case.rows {
            let [chosen, rejected, ref_chosen, ref_rejected] = row.logps;
            let scored = |role, logp, reference| Scored {
                group: 0,
                role,
                label: 1.0,
                margin: 0.0,
                logp,
                ref_logp: Some(reference),
                tokens: 4,
            };
            let pair =
                [scored(Role::Chosen, chosen, ref_chosen), scored(Role::Rejected, rejected, ref_rejected)];
            let got = objective.weigh(&pair).unwrap();
            assert_close(got.losses[0], row.loss, "loss");
            assert_close(got.d_logps[0], row.d_chosen, "d_chosen");
            assert_close(got.d_logps[1], row.d_rejected, "d_rejected");
            compared += 1;
        }
    }
    assert_eq!(compared, 21);
}
