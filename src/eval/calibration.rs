//! Calibration of the preferences that rewards predict: σ(r(chosen) − r(rejected)) against the labels.

use serde::Serialize;

use crate::objective::{Role, Scored};

/// Bins of equal width between 0 and 1.
const BINS: usize = 10;

/// Sums over pairs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    squares: f64,
    bins: [Sums; BINS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    pairs: u64,
    predicted: f64,
    observed: f64,
}

/// The pairs whose prediction falls into one tenth of [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Lower end of the predictions.
    pub from: f64,
    /// Upper end.
    pub to: f64,
    /// Number of pairs, each counted in both orders.
    pub pairs: u64,
    /// Mean prediction; null without pairs.
    pub predicted: Option<f64>,
    /// Mean label: the share in which the answer that is named first is preferred; null without pairs.
    pub observed: Option<f64>,
}

impl Calibration {
    /// Adds the pairs of a batch. Which answer stands first carries no information, so each pair counts in both orders,
    /// with p = σ(Δ) for the label y and 1 − p for 1 − y.
    pub fn add(&mut self, scored: &[Scored], reward: impl Fn(&Scored) -> Option<f64>) {
        for pair in scored.chunk_by(|a, b| a.group == b.group) {
            let [chosen @ Scored { role: Role::Chosen, .. }, rejected, ..] = pair else { continue };
            let (Some(better), Some(worse)) = (reward(chosen), reward(rejected)) else { continue };
            let predicted = 1.0 / (1.0 + (worse - better).exp());
            self.squares += (predicted - chosen.label).powi(2);
            for (predicted, observed) in [(predicted, chosen.label), (1.0 - predicted, 1.0 - chosen.label)] {
                let bin = &mut self.bins[((predicted * BINS as f64) as usize).min(BINS - 1)];
                bin.pairs += 1;
                bin.predicted += predicted;
                bin.observed += observed;
            }
        }
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Returns the mean of (p − y)² (Brier 1950).
    pub fn brier(&self) -> Option<f64> {
        (!self.is_empty()).then(|| self.squares / (self.count() as f64 / 2.0))
    }

    /// Returns the expected calibration error: Σ |mean p − mean y| over the bins, weighted by their pairs (Guo et al.
    /// 2017, arXiv 1706.04599).
    pub fn error(&self) -> Option<f64> {
        let apart: f64 = self.bins.iter().map(|bin| (bin.predicted - bin.observed).abs()).sum();
        (!self.is_empty()).then(|| apart / self.count() as f64)
    }

    /// Returns the bins in order.
    pub fn bins(&self) -> Vec<Bin> {
        let edge = |i: usize| i as f64 / BINS as f64;
        let bin = |(i, sums): (usize, &Sums)| {
            let mean = |sum: f64| (sums.pairs > 0).then(|| sum / sums.pairs as f64);
            Bin {
                from: edge(i),
                to: edge(i + 1),
                pairs: sums.pairs,
                predicted: mean(sums.predicted),
                observed: mean(sums.observed),
            }
        };
        self.bins.iter().enumerate().map(bin).collect()
    }

    fn count(&self) -> u64 {
        self.bins.iter().map(|bin| bin.pairs).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(f64, f64)]) -> Calibration {
        let mut found = Calibration::default();
        for (delta, label) in pairs {
            let scored = |role, logp| Scored {
                group: 0,
                role,
                label: *label,
                margin: 0.0,
                logp,
                ref_logp: None,
                tokens: 1,
            };
            let pair = [scored(Role::Chosen, *delta), scored(Role::Rejected, 0.0)];
            found.add(&pair, |completion| Some(completion.logp));
        }
        found
    }

    #[test]
    fn figures_are_those_of_the_definitions() {
        // σ(ln 3) = ¾: three of four pairs agree.
        let ln3 = 3f64.ln();
        let even = of(&[(ln3, 1.0), (ln3, 1.0), (ln3, 1.0), (ln3, 0.0)]);
        assert!(even.error().unwrap() < 1e-12);
        assert!((even.brier().unwrap() - (3.0 / 16.0 + 9.0 / 16.0) / 4.0).abs() < 1e-12);
        let sure = of(&[(ln3, 1.0), (ln3, 1.0)]);
        assert!((sure.error().unwrap() - 0.25).abs() < 1e-12);
        let bins = sure.bins();
        assert_eq!((bins[7].pairs, bins[7].observed, bins[2].observed), (2, Some(1.0), Some(0.0)));
        assert_eq!((bins.len(), bins[9].pairs, bins[9].predicted), (10, 0, None));
        assert!(Calibration::default().brier().is_none() && of(&[(900.0, 1.0)]).error() == Some(0.0));
    }
}
