//! The figures of preference training, under the names TRL logs them by.

use serde::{Deserialize, Serialize};

use super::{PairLogps, PairLoss};

/// Sums over pairs, in f64 and in the order added; read as means. Serialisable, so that a resumed run logs what an
/// uninterrupted one would.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    pairs: u64,
    loss: f64,
    reward_chosen: f64,
    reward_rejected: f64,
    correct: u64,
    logp_chosen: f64,
    logp_rejected: f64,
}

impl Metrics {
    /// Adds one pair.
    pub fn add(&mut self, logps: &PairLogps, loss: &PairLoss) {
        self.pairs += 1;
        self.loss += loss.loss;
        self.reward_chosen += loss.reward_chosen;
        self.reward_rejected += loss.reward_rejected;
        self.correct += u64::from(loss.reward_chosen > loss.reward_rejected);
        self.logp_chosen += logps.chosen;
        self.logp_rejected += logps.rejected;
    }

    /// Adds what another accumulator (a later batch, another rank) holds.
    pub fn merge(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.loss += other.loss;
        self.reward_chosen += other.reward_chosen;
        self.reward_rejected += other.reward_rejected;
        self.correct += other.correct;
        self.logp_chosen += other.logp_chosen;
        self.logp_rejected += other.logp_rejected;
    }

    /// How many pairs were added.
    pub fn pairs(&self) -> u64 {
        self.pairs
    }

    /// Mean loss, nats; 0 before the first pair.
    pub fn loss(&self) -> f64 {
        self.mean(self.loss)
    }

    /// Share of pairs whose chosen reward is strictly greater; 0 before the first pair.
    pub fn accuracy(&self) -> f64 {
        self.mean(self.correct as f64)
    }

    /// The means under TRL's names, in a fixed order; empty before the first pair.
    pub fn means(&self) -> Vec<(&'static str, f64)> {
        if self.pairs == 0 {
            return Vec::new();
        }
        vec![
            ("loss", self.loss()),
            ("rewards/chosen", self.mean(self.reward_chosen)),
            ("rewards/rejected", self.mean(self.reward_rejected)),
            ("rewards/margins", self.mean(self.reward_chosen - self.reward_rejected)),
            ("rewards/accuracies", self.accuracy()),
            ("logps/chosen", self.mean(self.logp_chosen)),
            ("logps/rejected", self.mean(self.logp_rejected)),
        ]
    }

    fn mean(&self, sum: f64) -> f64 {
        if self.pairs == 0 { 0.0 } else { sum / self.pairs as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::ObjectiveConfig;

    fn metrics(pairs: &[(f64, f64)]) -> Metrics {
        let objective = ObjectiveConfig { beta: 0.5, ..Default::default() };
        let mut metrics = Metrics::default();
        for &(chosen, rejected) in pairs {
            let logps = PairLogps { chosen, rejected, ref_chosen: -10.0, ref_rejected: -20.0 };
            metrics.add(&logps, &objective.pair(&logps, 1.0));
        }
        metrics
    }

    #[test]
    fn means_carry_trl_names_and_count_strictly_greater_rewards() {
        // rewards: (1, −1), (0, 0) a tie, (−1, 1)
        let means = metrics(&[(-8.0, -22.0), (-10.0, -20.0), (-12.0, -18.0)]).means();
        let get = |name: &str| means.iter().find(|(key, _)| *key == name).unwrap().1;
        assert_eq!(get("rewards/accuracies"), 1.0 / 3.0);
        assert_eq!(get("rewards/chosen"), 0.0);
        assert_eq!(get("rewards/margins"), 0.0);
        assert_eq!(get("logps/chosen"), -10.0);
        assert_eq!(get("logps/rejected"), -20.0);
        // softplus(−2) + log 2 + softplus(2), over 3
        let expected = ((-2f64).exp().ln_1p() + std::f64::consts::LN_2 + 2.0 + (-2f64).exp().ln_1p()) / 3.0;
        assert!((get("loss") - expected).abs() < 1e-15);
        assert!(Metrics::default().means().is_empty());
    }

    #[test]
    fn merging_is_adding() {
        let mut merged = metrics(&[(-8.0, -22.0)]);
        merged.merge(&metrics(&[(-9.0, -21.0), (-12.0, -18.0)]));
        assert_eq!(merged.pairs(), 3);
        let whole = metrics(&[(-8.0, -22.0), (-9.0, -21.0), (-12.0, -18.0)]);
        for ((name, merged), (_, whole)) in merged.means().into_iter().zip(whole.means()) {
            assert!((merged - whole).abs() < 1e-14, "{name}: {merged} {whole}");
        }
    }

    #[test]
    fn a_saved_accumulator_is_the_same_bits() {
        let saved = metrics(&[(-8.1, -22.3), (-9.7, -21.9)]);
        let text = serde_json::to_string(&saved).unwrap();
        assert_eq!(serde_json::from_str::<Metrics>(&text).unwrap(), saved);
    }
}
