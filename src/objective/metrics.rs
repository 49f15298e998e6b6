//! Metrics of preference training, under TRL's names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::scored::{Role, Scored};

/// Sums over groups, accumulated in f64 in the order of addition and read as means. It is serializable, so that a
/// resumed run logs the same values as an uninterrupted one.
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
    /// Additional figures logged by the losses: sum and count of each.
    figures: BTreeMap<Figure, (f64, u64)>,
    /// Whether groups lacked completions that the loss needs, so that its value means nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
}

/// A figure that a loss logs in addition to its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Negative log-prob per imitated token, nats.
    NllLoss,
    /// KTO's divergence estimate of a micro-batch, nats.
    Kl,
    /// ORPO's log σ of the log odds ratio.
    LogOddsRatio,
    /// ORPO's log odds ratio of chosen to rejected.
    LogOddsChosen,
    /// Reward of a drawn completion.
    Reward,
    /// Standard deviation of the rewards of a prompt's completions.
    RewardStd,
    /// Share of groups of completions whose rewards are all equal; of PPO, share of rollouts.
    TiedRewards,
    /// Tokens of a drawn completion.
    CompletionLength,
    /// Share of drawn completions without an end token.
    ClippedCompletions,
    /// Share of ratios that are clipped.
    ClipRatio,
    /// −log π per drawn token, nats, under the distribution it was drawn from: an estimate of that distribution's entropy
    /// without bias.
    Entropy,
    /// Loss of PPO's policy.
    PolicyLoss,
    /// Loss of PPO's values.
    ValueLoss,
    /// PPO's coefficient of the divergence.
    KlCoef,
}

impl Figure {
    /// Returns the figure's name in TRL's logs.
    fn name(self) -> &'static str {
        match self {
            Self::NllLoss => "nll_loss",
            Self::Kl => "kl",
            Self::LogOddsRatio => "log_odds_ratio",
            Self::LogOddsChosen => "log_odds_chosen",
            Self::Reward => "reward",
            Self::RewardStd => "reward_std",
            Self::TiedRewards => "frac_reward_zero_std",
            Self::CompletionLength => "completions/mean_length",
            Self::ClippedCompletions => "completions/clipped_ratio",
            Self::ClipRatio => "clip_ratio/region_mean",
            Self::Entropy => "entropy",
            Self::PolicyLoss => "loss/policy_avg",
            Self::ValueLoss => "loss/value_avg",
            Self::KlCoef => "kl_coef",
        }
    }
}

/// The sums over the completions of one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    completions: u64,
    tokens: u64,
    logp: f64,
    /// Sum of the log-probs that the loss compares: per completion or per token.
    compared_logp: f64,
    /// Number of completions with a reference.
    compared: u64,
    compared_tokens: u64,
    log_ratio: f64,
    /// Number of completions with a reward.
    rewarded: u64,
    reward: f64,
}

impl Side {
    fn add(&mut self, completion: &Scored, measure: &impl Measure) {
        if let Some(logp) = measure.logp(completion) {
            self.completions += 1;
            self.tokens += completion.tokens as u64;
            self.logp += completion.logp;
            self.compared_logp += logp;
        }
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

    /// Returns the mean reward per completion.
    pub fn reward(&self) -> Option<f64> {
        mean(self.reward, self.rewarded)
    }

    /// Returns the mean log π_θ per completion, nats. For a loss that divides by the length it is the mean over
    /// completions of the mean log-prob per token. TRL logs the same.
    pub fn logp(&self) -> Option<f64> {
        mean(self.compared_logp, self.completions)
    }

    /// Returns the mean log π_θ − log π_ref per scored token, nats.
    pub fn log_ratio_per_token(&self) -> Option<f64> {
        mean(self.log_ratio, self.compared_tokens)
    }

    /// Returns the perplexity: exp of the mean negative log-prob per token.
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
                // Ranks between best and worst belong to neither side, and neither do gold answers or completions that do
                // not answer their prompt.
                Role::Rank(_) | Role::Gold | Role::Mismatched | Role::Prompt | Role::Tail(_) => {}
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

    /// Adds to a figure a sum over `count` records or batches.
    pub fn note(&mut self, figure: Figure, sum: f64, count: u64) {
        let (total, counted) = self.figures.entry(figure).or_default();
        *total += sum;
        *counted += count;
    }

    /// Adds `groups` prompts with this mean loss, of which there are no given completions.
    pub fn add_loss(&mut self, mean: f64, groups: u64) {
        self.groups += groups;
        self.loss += mean * groups as f64;
    }

    /// Adds the contents of another accumulator (a later batch, another rank).
    pub fn merge(&mut self, other: &Self) {
        self.groups += other.groups;
        self.loss += other.loss;
        self.comparisons += other.comparisons;
        self.correct += other.correct;
        self.correct_by_logp += other.correct_by_logp;
        self.chosen.merge(&other.chosen);
        self.rejected.merge(&other.rejected);
        self.incomplete |= other.incomplete;
        for (figure, (sum, count)) in &other.figures {
            self.note(*figure, *sum, *count);
        }
    }

    /// Returns the sum of a figure and the number of records or batches that it is of, if there are any.
    pub fn figure(&self, figure: Figure) -> Option<(f64, u64)> {
        self.figures.get(&figure).copied().filter(|(_, count)| *count > 0)
    }

    /// Returns the number of groups added.
    pub fn groups(&self) -> u64 {
        self.groups
    }

    /// Returns the number of comparisons of two completions; one for a pair.
    pub fn comparisons(&self) -> u64 {
        self.comparisons
    }

    /// Returns the mean loss per group, nats; `None` also if groups lacked completions that the loss needs.
    pub fn loss(&self) -> Option<f64> {
        mean(self.loss, self.groups).filter(|_| !self.incomplete)
    }

    /// States that a group lacked completions that the loss needs.
    pub(super) fn lack(&mut self) {
        self.incomplete = true;
    }

    /// Returns the share of comparisons in which the better completion has the strictly greater reward.
    pub fn accuracy(&self) -> Option<f64> {
        mean(self.correct as f64, self.comparisons).filter(|_| self.chosen.rewarded > 0)
    }

    /// Returns the share of comparisons in which the better completion has the strictly greater log-prob; `None` for a
    /// reward model, which has none.
    pub fn logp_accuracy(&self) -> Option<f64> {
        mean(self.correct_by_logp as f64, self.comparisons).filter(|_| self.chosen.completions > 0)
    }

    /// Returns the preferred completions: chosen, desirable, the best of a list, or the text to imitate.
    pub fn chosen(&self) -> &Side {
        &self.chosen
    }

    /// Returns the other completions: rejected, undesirable, the worst of a list.
    pub fn rejected(&self) -> &Side {
        &self.rejected
    }

    /// Returns the mean reward of the chosen completions minus that of the rejected ones.
    pub fn margin(&self) -> Option<f64> {
        if self.chosen.rewarded == self.rejected.rewarded {
            return mean(self.chosen.reward - self.rejected.reward, self.chosen.rewarded);
        }
        Some(self.chosen.reward()? - self.rejected.reward()?)
    }

    /// Returns an estimate of KL(π_ref ‖ π_θ) per completion, nats: the mean of log π_ref − log π_θ over the
    /// completions of both sides (k1 of Schulman 2020, "Approximating KL divergence"). It is unbiased if the
    /// completions are samples of the reference.
    pub fn kl(&self) -> Option<f64> {
        mean(self.lost(), self.chosen.compared + self.rejected.compared)
    }

    /// Returns the same estimate per token.
    pub fn kl_per_token(&self) -> Option<f64> {
        mean(self.lost(), self.chosen.compared_tokens + self.rejected.compared_tokens)
    }

    fn lost(&self) -> f64 {
        -(self.chosen.log_ratio + self.rejected.log_ratio)
    }

    /// Returns the means under TRL's names, in a fixed order. Figures that the objective does not have are omitted.
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

/// The quantities of a completion that a loss defines.
pub trait Measure {
    /// Returns the implicit reward, if the loss has one.
    fn reward(&self, completion: &Scored) -> Option<f64>;

    /// Returns the log-prob that the loss compares, nats: of the whole completion or per token. A reward model has none.
    fn logp(&self, completion: &Scored) -> Option<f64>;
}

/// Whether a completion with the first role is preferred to one with the second.
fn is_better(better: Role, worse: Role) -> bool {
    match (better, worse) {
        (Role::Chosen, Role::Rejected) => true,
        (Role::Rank(better), Role::Rank(worse)) => better < worse,
        _ => false,
    }
}

/// A mean of nothing but zeros is 0, whatever their signs.
fn mean(sum: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| if sum == 0.0 { 0.0 } else { sum / count as f64 })
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
        // Before the first step it is 0, which has no sign.
        let before = metrics(&[(-10.0, -20.0)]);
        let figures = [before.kl(), before.kl_per_token(), before.margin()].map(Option::unwrap);
        assert!(figures.iter().all(|value| *value == 0.0 && value.is_sign_positive()), "{figures:?}");
    }

    /// The log-prob is the reward.
    struct ByLogp;

    impl Measure for ByLogp {
        fn reward(&self, completion: &Scored) -> Option<f64> {
            Some(completion.logp)
        }

        fn logp(&self, completion: &Scored) -> Option<f64> {
            Some(completion.logp)
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
                margin: 0.0,
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
