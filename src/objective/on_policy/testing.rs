//! Helpers of the tests: completions with ratios on every side of the bounds.

use super::Sampled;

pub(super) fn sampled() -> Vec<Sampled> {
    let of = |lengths: usize, advantage: f64, seed: f64| {
        let draw = |k: f64| (0..lengths).map(|t| ((t as f64 + 1.0) * k + seed).sin()).collect::<Vec<_>>();
        let old: Vec<f64> = draw(1.7).iter().map(|x| -1.5 + x).collect();
        Sampled {
            logps: old.iter().zip(draw(2.9)).map(|(old, x)| old + 0.6 * x).collect(),
            ref_logps: Some(old.iter().zip(draw(0.8)).map(|(old, x)| old + 0.5 * x).collect()),
            old_logps: old,
            advantage,
            counts: true,
        }
    };
    vec![of(5, 1.3, 0.1), of(3, -0.8, 2.0), of(7, 0.0, 1.0), of(2, -2.0, 0.7)]
}

/// Compares slopes with central differences.
pub(super) fn assert_slopes(batch: &[Sampled], weigh: impl Fn(&[Sampled]) -> (f64, Vec<Vec<f64>>)) {
    let (h, slopes) = (1e-6, weigh(batch).1);
    for (i, own) in slopes.iter().enumerate() {
        for (t, slope) in own.iter().enumerate() {
            let moved = |by: f64| {
                let mut batch = batch.to_vec();
                batch[i].logps[t] += by;
                weigh(&batch).0
            };
            let found = (moved(h) - moved(-h)) / (2.0 * h);
            assert!((slope - found).abs() < 1e-7 * slope.abs().max(1.0), "{i} {t}: {slope} against {found}");
        }
    }
}
