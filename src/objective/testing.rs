//! Helpers shared by the tests of the losses.

use super::pairs::PairLoss;
use super::scored::{Role, Scored, pair};
use super::terms::{Batch, Records, Terms, Weighed};

fn scored(group: usize, role: Role, logp: f64, reference: f64, tokens: usize) -> Scored {
    Scored { group, role, label: 1.0, margin: 0.0, logp, ref_logp: Some(reference), tokens }
}

/// Builds a pair of 4 and 3 tokens from the log-probs of chosen and rejected under the policy and under the reference.
pub(super) fn logps([chosen, rejected, ref_chosen, ref_rejected]: [f64; 4]) -> [Scored; 2] {
    [scored(0, Role::Chosen, chosen, ref_chosen, 4), scored(0, Role::Rejected, rejected, ref_rejected, 3)]
}

/// Builds judged completions from log-ratios and whether they are desirable, plus mismatched ones from their
/// log-ratios.
pub(super) fn judged(ratios: &[(f64, bool)], estimates: &[f64]) -> Vec<Scored> {
    let role = |desirable| if desirable { Role::Desirable } else { Role::Undesirable };
    let judged = ratios.iter().map(|(ratio, desirable)| (*ratio, role(*desirable)));
    judged
        .chain(estimates.iter().map(|ratio| (*ratio, Role::Mismatched)))
        .enumerate()
        .map(|(group, (ratio, role))| scored(group, role, ratio - 20.0, -20.0, 3 + group))
        .collect()
}

/// Builds a ranked list with these log-ratios.
pub(super) fn ranked(ratios: &[f64]) -> Vec<Scored> {
    let place = |(place, ratio): (usize, &f64)| scored(0, Role::Rank(place), ratio - 20.0, -20.0, 3 + place);
    ratios.iter().enumerate().map(place).collect()
}

/// Returns the loss of one pair.
pub(super) fn pair_of(loss: &dyn Terms, batch: &[Scored]) -> PairLoss {
    assert!(pair(batch).is_ok());
    let found = weigh(loss, batch);
    PairLoss { loss: found.losses[0], d_chosen: found.d_logps[0], d_rejected: found.d_logps[1] }
}

pub(super) fn weigh(loss: &dyn Terms, batch: &[Scored]) -> Weighed {
    let mut found = Weighed::zeros(batch);
    loss.add(&Batch::new(batch), 1.0, &mut found).unwrap();
    found
}

/// Builds a batch of three records that the loss takes, with log-ratios of about `scale` in size.
pub(super) fn batch_for(loss: &dyn Terms, scale: f64, label: f64) -> Vec<Scored> {
    let needs = loss.needs();
    let ratios = [[2.5, -1.25], [-0.5, 1.5], [0.3, -2.0]].map(|pair| pair.map(|ratio| ratio * scale));
    match needs.records {
        Records::Judged => {
            judged(&[(ratios[0][0], true), (ratios[1][1], false), (ratios[2][0], true)], &[0.2, 0.5])
        }
        Records::Ranked => ranked(&ratios.map(|pair| pair[0])),
        Records::Texts => {
            let text = |(group, [ratio, _]): (usize, [f64; 2])| {
                scored(group, Role::Text, ratio.min(0.0) - 9.0, -9.0, 2 + group)
            };
            ratios.into_iter().enumerate().map(text).collect()
        }
        // Losses of rollouts have tests of their own.
        Records::Prompts => Vec::new(),
        Records::Pairs | Records::Triples => ratios
            .into_iter()
            .enumerate()
            .flat_map(|(group, [chosen, rejected])| {
                // Without a reference the log-prob itself counts, and it must be below 0.
                let lower = |ratio: f64| if needs.reference { ratio - 20.0 } else { -5.0 - ratio.abs() };
                let mut pair = vec![
                    scored(group, Role::Chosen, lower(chosen), -20.0, 4 + group),
                    scored(group, Role::Rejected, lower(rejected), -20.0, 3),
                ];
                if needs.records == Records::Triples {
                    pair.push(scored(group, Role::Gold, -6.0 - ratios[group][0].abs(), -20.0, 2 + group));
                }
                if needs.prompt {
                    pair.push(scored(group, Role::Prompt, -7.0, -7.0, 5));
                }
                pair
            })
            .map(|completion| Scored { label, ..completion })
            .collect(),
    }
}

/// Compares the gradient of a batch with central differences.
pub(super) fn assert_gradient(name: &str, loss: &dyn Terms, batch: &[Scored]) {
    let h = 1e-5;
    let total = |batch: &[Scored]| weigh(loss, batch).losses.iter().sum::<f64>();
    let got = weigh(loss, batch).d_logps;
    for (which, slope) in got.iter().enumerate().filter(|(i, _)| batch[*i].role != Role::Mismatched) {
        let moved = |by: f64| {
            let mut batch = batch.to_vec();
            batch[which].logp += by;
            total(&batch)
        };
        let expected = (moved(h) - moved(-h)) / (2.0 * h);
        // Relative error plus the rounding error of the sum divided by h.
        let tolerance = 1e-7 * expected.abs().max(1.0) + 1e-15 * total(batch).abs() / h;
        assert!((slope - expected).abs() < tolerance, "{name}: {slope} against {expected}");
    }
}
