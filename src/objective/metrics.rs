//! The figures of preference training, under the names TRL logs them by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::scored::{Role, Scored};

/// Sums over groups, in f64 and in the order added; read as means. Serialisable, so that a resumed run logs what an
/// uninterrupted one would.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    groups: u64,
    loss: f64,
    comparisons: u64,
    correct: u64,
    correct_by_logp: u64,
    chosen: Side,
    rejected: Side,
    /// What the losses log besides: sum and count of each figure.
    figures: BTreeMap<Figure, (f64, u64)>,
}

/// A figure that a loss logs besides its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Negative log-prob of a token to imitate, nats.
    NllLoss,
    /// KTO's estimate of the divergence in a micro-batch, nats.
    Kl,
    /// ORPO's log σ of the log odds.
    LogOddsRatio,
    /// ORPO's log odds of chosen over rejected.
    LogOddsChosen,
}

impl Figure {
    /// Its name in TRL's logs.
    fn name(self) -> &'static str {
        match self {
            Self::NllLoss => "nll_loss",
            Self::Kl => "kl",
            Self::LogOddsRatio => "log_odds_ratio",
            Self::LogOddsChosen => "log_odds_chosen",
        }
    }
}

/// The completions of one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    completions: u64,
    tokens: u64,
    logp: f64,
    /// Sum of what the loss compares: log-probs of completions, or of tokens.
    compared_logp: f64,
    /// Completions with a reference.
    compared: u64,
    compared_tokens: u64,
    log_ratio: f64,
    /// Completions with a reward.
    rewarded: u64,
    reward: f64,
}

impl Side {
    fn add(&mut self, completion: &Scored, measure: &impl Measure) {
        self.completions += 1;
        self.tokens += completion.tokens as u64;
        self.logp += completion.logp;
        self.compared_logp += measure.logp(completion);
        if let Some(ratio) = completion.log_ratio() {
            self.compared += 1;
            self.compared_tokens += completion.tokens as u64;
            self.log_ratio += ratio;
        }
        if let Some(reward) = measure.reward(completion) {
            self.rewarded += 1;
            self.reward += reward;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.completions += other.completions;
        self.tokens += other.tokens;
        self.logp += other.logp;
        self.compared_logp += other.compared_logp;
        self.compared += other.compared;
        self.compared_tokens += other.compared_tokens;
        self.log_ratio += other.log_ratio;
        self.rewarded += other.rewarded;
        self.reward += other.reward;
    }

    /// Mean reward of a completion.
    pub fn reward(&self) -> Option<f64> {
        mean(self.reward, self.rewarded)
    }

    /// Mean log π_θ of a completion, nats; of a loss that divides by the length, the mean over completions of their mean
    /// log-prob of a token. TRL logs the same.
    pub fn logp(&self) -> Option<f64> {
        mean(self.compared_logp, self.completions)
    }

    /// Mean log π_θ − log π_ref of a scored token, nats.
    pub fn log_ratio_per_token(&self) -> Option<f64> {
        mean(self.log_ratio, self.compared_tokens)
    }

    /// exp of the mean negative log-prob of a token.
    pub fn perplexity(&self) -> Option<f64> {
        mean(-self.logp, self.tokens).map(f64::exp)
    }
}

impl Metrics {
    /// Adds one group.
    pub fn add(&mut self, group: &[Scored], loss: f64, measure: &impl Measure) {
        self.groups += 1;
        self.loss += loss;
        let last = group.iter().filter(|c| matches!(c.role, Role::Rank(_))).count().saturating_sub(1);
        for completion in group {
            match completion.role {
                Role::Chosen | Role::Desirable | Role::Text | Role::Rank(0) => {
                    self.chosen.add(completion, measure);
                }
                Role::Rejected | Role::Undesirable => self.rejected.add(completion, measure),
                Role::Rank(place) if place == last => self.rejected.add(completion, measure),
                // Between the best and the worst of a list; what is no answer to the prompt is on no side.
                Role::Rank(_) | Role::Mismatched | Role::Prompt => {}
            }
        }
        for (i, better) in group.iter().enumerate() {
            for worse in &group[i + 1..] {
                if !is_better(better.role, worse.role) {
                    continue;
                }
                self.comparisons += 1;
                self.correct += u64::from(measure.reward(better) > measure.reward(worse));
                self.correct_by_logp += u64::from(measure.logp(better) > measure.logp(worse));
            }
        }
    }

    /// Adds a figure: a sum over `count` records or batches.
    pub(super) fn note(&mut self, figure: Figure, sum: f64, count: u64) {
        let (total, counted) = self.figures.entry(figure).or_default();
        *total += sum;
        *counted += count;
    }

    /// Adds what another accumulator (a later batch, another rank) holds.
    pub fn merge(&mut self, other: &Self) {
        self.groups += other.groups;
        self.loss += other.loss;
        self.comparisons += other.comparisons;
        self.correct += other.correct;
        self.correct_by_logp += other.correct_by_logp;
        self.chosen.merge(&other.chosen);
        self.rejected.merge(&other.rejected);
        for (figure, (sum, count)) in &other.figures {
            self.note(*figure, *sum, *count);
        }
    }

    /// How many groups were added.
    pub fn groups(&self) -> u64 {
        self.groups
    }

    /// How many comparisons of two completions were added; one for a pair.
    pub fn comparisons(&self) -> u64 {
        self.comparisons
    }

    /// Mean loss of a group, nats.
    pub fn loss(&self) -> Option<f64> {
        mean(self.loss, self.groups)
    }

    /// Share of comparisons in which the better completion has the strictly greater reward.
    pub fn accuracy(&self) -> Option<f64> {
        mean(self.correct as f64, self.comparisons).filter(|_| self.chosen.rewarded > 0)
    }

    /// Share of comparisons in which the better completion has the strictly greater log-prob.
    pub fn logp_accuracy(&self) -> Option<f64> {
        mean(self.correct_by_logp as f64, self.comparisons)
    }

    /// The preferred completions: chosen, desirable, the best of a list, or the text to imitate.
    pub fn chosen(&self) -> &Side {
        &self.chosen
    }

    /// The others: rejected, undesirable, the worst of a list.
    pub fn rejected(&self) -> &Side {
        &self.rejected
    }

    /// Mean reward of the chosen completions minus that of the rejected ones.
    pub fn margin(&self) -> Option<f64> {
        if self.chosen.rewarded == self.rejected.rewarded {
            return mean(self.chosen.reward - self.rejected.reward, self.chosen.rewarded);
        }
        Some(self.chosen.reward()? - self.rejected.reward()?)
    }

    /// Estimate of KL(π_ref ‖ π_θ) over a completion, nats: the mean of log π_ref − log π_θ over the completions of both
    /// sides (k1 of Schulman 2020, "Approximating KL divergence"). Unbiased where they are samples of the reference.
    pub fn kl(&self) -> Option<f64> {
        mean(self.lost(), self.chosen.compared + self.rejected.compared)
    }

    /// The same over a token.
    pub fn kl_per_token(&self) -> Option<f64> {
        mean(self.lost(), self.chosen.compared_tokens + self.rejected.compared_tokens)
    }

    fn lost(&self) -> f64 {
        -(self.chosen.log_ratio + self.rejected.log_ratio)
    }

    /// The means under TRL's names, in a fixed order. What the objective does not have is left out.
    pub fn means(&self) -> Vec<(&'static str, f64)> {
        let all = [
            ("loss", self.loss()),
            ("rewards/chosen", self.chosen.reward()),
            ("rewards/rejected", self.rejected.reward()),
            ("rewards/margins", self.margin()),
            ("rewards/accuracies", self.accuracy()),
            ("logps/chosen", self.chosen.logp()),
            ("logps/rejected", self.rejected.logp()),
        ];
        let figures = self.figures.iter().map(|(figure, (sum, count))| (figure.name(), mean(*sum, *count)));
        all.into_iter().chain(figures).filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// How a loss looks at a completion.
pub trait Measure {
    /// Its implicit reward, if the loss has one.
    fn reward(&self, completion: &Scored) -> Option<f64>;

    /// The log-prob that the loss compares, nats: of the whole completion or of a token.
    fn logp(&self, completion: &Scored) -> f64;
}

/// Whether a completion in the first role is preferred to one in the second.
fn is_better(better: Role, worse: Role) -> bool {
    match (better, worse) {
        (Role::Chosen, Role::Rejected) => true,
        (Role::Rank(better), Role::Rank(worse)) => better < worse,
        _ => false,
    }
}

fn mean(sum: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::super::testing::logps;
    use super::super::{Objective, Sigmoid};
    use super::*;

    fn metrics(pairs: &[(f64, f64)]) -> Metrics {
        let objective = Objective::new(Sigmoid { beta: 0.5, ..Sigmoid::default() });
        let mut metrics = Metrics::default();
        for &(chosen, rejected) in pairs {
            let batch = logps([chosen, rejected, -10.0, -20.0]);
            objective.measure(&batch, &objective.weigh(&batch).unwrap(), &mut metrics);
        }
        metrics
    }

    #[test]
    fn means_carry_trl_names_and_count_strictly_greater_rewards() {
        // rewards: (1, −1), (0, 0) a tie, (−1, 1)
        let found = metrics(&[(-8.0, -22.0), (-10.0, -20.0), (-12.0, -18.0)]);
        let means = found.means();
        let get = |name: &str| means.iter().find(|(key, _)| *key == name).unwrap().1;
        assert_eq!(get("rewards/accuracies"), 1.0 / 3.0);
        assert_eq!(get("rewards/chosen"), 0.0);
        assert_eq!(get("rewards/margins"), 0.0);
        assert_eq!(get("logps/chosen"), -10.0);
        assert_eq!(get("logps/rejected"), -20.0);
        // softplus(−2) + log 2 + softplus(2), over 3
        let expected = ((-2f64).exp().ln_1p() + std::f64::consts::LN_2 + 2.0 + (-2f64).exp().ln_1p()) / 3.0;
        assert!((get("loss") - expected).abs() < 1e-15);
        assert_eq!((found.comparisons(), found.logp_accuracy()), (3, Some(1.0)));
        assert!(Metrics::default().means().is_empty());
    }

    #[test]
    fn merging_is_adding() {
        let mut merged = metrics(&[(-8.0, -22.0)]);
        merged.merge(&metrics(&[(-9.0, -21.0), (-12.0, -18.0)]));
        assert_eq!(merged.groups(), 3);
        let whole = metrics(&[(-8.0, -22.0), (-9.0, -21.0), (-12.0, -18.0)]);
        for ((name, merged), (_, whole)) in merged.means().into_iter().zip(whole.means()) {
            assert!((merged - whole).abs() < 1e-14, "{name}: {merged} {whole}");
        }
    }

    #[test]
    fn divergence_is_over_completions_and_over_tokens() {
        // The policy lost 3 and 1 nats on 4 and 3 tokens.
        let found = metrics(&[(-13.0, -21.0)]);
        assert_eq!((found.kl(), found.kl_per_token()), (Some(2.0), Some(4.0 / 7.0)));
        assert_eq!(found.chosen().log_ratio_per_token(), Some(-0.75));
        assert_eq!(found.rejected().perplexity(), Some(7f64.exp()));
    }

    /// The log-prob is the reward.
    struct ByLogp;

    impl Measure for ByLogp {
        fn reward(&self, completion: &Scored) -> Option<f64> {
            Some(completion.logp)
        }

        fn logp(&self, completion: &Scored) -> f64 {
            completion.logp
        }
    }

    #[test]
    fn a_ranked_list_counts_every_comparison() {
        let mut metrics = Metrics::default();
        let logps = [-1.0, -3.0, -2.0];
        let group: Vec<Scored> = (0..3)
            .map(|place| Scored {
                group: 0,
                role: Role::Rank(place),
                label: 1.0,
                logp: logps[place],
                ref_logp: None,
                tokens: 2,
            })
            .collect();
        metrics.add(&group, 0.5, &ByLogp);
        // Two of the three comparisons hold: the second and the third are swapped.
        assert_eq!((metrics.comparisons(), metrics.accuracy()), (3, Some(2.0 / 3.0)));
        assert_eq!((metrics.chosen().logp(), metrics.rejected().logp()), (Some(-1.0), Some(-2.0)));
        assert_eq!((metrics.kl(), metrics.margin()), (None, Some(1.0)));
    }

    #[test]
    fn a_saved_accumulator_is_the_same_bits() {
        let mut saved = metrics(&[(-8.1, -22.3), (-9.7, -21.9)]);
        saved.note(Figure::Kl, 0.3, 2);
        saved.note(Figure::NllLoss, 1.7, 4);
        assert_eq!(saved.means().last(), Some(&("kl", 0.15)));
        let text = serde_json::to_string(&saved).unwrap();
        assert_eq!(serde_json::from_str::<Metrics>(&text).unwrap(), saved);
    }
}
