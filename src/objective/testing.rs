//! What the tests of the losses share.

use super::scored::{Role, Scored, pair};
use super::terms::{PairLoss, Terms, Weighed};

/// A pair of 4 and 3 tokens: log-probs of chosen and rejected, under the policy and under the reference.
pub(super) fn logps([chosen, rejected, ref_chosen, ref_rejected]: [f64; 4]) -> [Scored; 2] {
    let scored = |role, logp, reference, tokens| Scored {
        group: 0,
        role,
        label: 1.0,
        logp,
        ref_logp: Some(reference),
        tokens,
    };
    [scored(Role::Chosen, chosen, ref_chosen, 4), scored(Role::Rejected, rejected, ref_rejected, 3)]
}

/// The loss of one pair.
pub(super) fn pair_of(loss: &dyn Terms, batch: &[Scored]) -> PairLoss {
    assert!(pair(batch).is_ok());
    let mut found = Weighed::zeros(batch);
    loss.add(batch, 1.0, &mut found).unwrap();
    PairLoss { loss: found.losses[0], d_chosen: found.d_logps[0], d_rejected: found.d_logps[1] }
}

/// Compares the gradient with central differences, for hard and soft labels and for pairs on both sides of the optimum.
pub(super) fn assert_gradient(loss: &dyn Terms) {
    let h = 1e-4;
    for at in [[-41.5, -37.25, -44.0, -36.0], [-9.0, -12.5, -8.0, -14.0], [-5.0, -5.0, -5.0, -5.0]] {
        for label in [1.0, 0.9, 0.5, 0.0] {
            let batch = logps(at).map(|completion| Scored { label, ..completion });
            let moved = |which: usize, by: f64| {
                let mut batch = batch;
                batch[which].logp += by;
                pair_of(loss, &batch).loss
            };
            let got = pair_of(loss, &batch);
            for (which, slope) in [got.d_chosen, got.d_rejected].into_iter().enumerate() {
                let expected = (moved(which, h) - moved(which, -h)) / (2.0 * h);
                let tolerance = 1e-6 * expected.abs().max(1.0);
                assert!((slope - expected).abs() < tolerance, "{at:?} {label}: {slope} against {expected}");
            }
        }
    }
}
