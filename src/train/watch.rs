//! Watchdogs: one-line warnings when training goes wrong. Each is given once per run, with a suggested remedy.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::{Problems, Result};
use crate::objective::Metrics;

/// The number of pairs to average over: single steps are too noisy to warn about.
const LOOK: u64 = 32;

/// The `watch` section of a run's configuration: bounds beyond which a warning is given. `null` turns a watchdog off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchConfig {
    /// The largest magnitude of a mean reward, in units of reward (β times nats).
    pub max_reward: Option<f64>,
    /// Nats per token that chosen completions may lose relative to the reference.
    pub max_chosen_drop: Option<f64>,
    /// The largest divergence from the reference, in nats per token; see [`Watch`] for the estimator.
    pub max_kl: Option<f64>,
    /// The number of pairs after which an accuracy at chance level is reported.
    pub chance_pairs: Option<u64>,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            max_reward: Some(50.0),
            max_chosen_drop: Some(0.5),
            max_kl: Some(1.0),
            chance_pairs: Some(1000),
        }
    }
}

impl WatchConfig {
    /// # Errors
    /// [`crate::error::Error::Config`], which lists every invalid value and its remedy.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Problems::default();
        let bounds = [
            ("max_reward", self.max_reward),
            ("max_chosen_drop", self.max_chosen_drop),
            ("max_kl", self.max_kl),
        ];
        for (key, bound) in bounds {
            problems.require(bound.is_none_or(|bound| bound.is_finite() && bound > 0.0), || {
                let bound = bound.unwrap_or_default();
                format!("watch.{key} is {bound}; it must be a finite number above 0 (null: not watched)")
            });
        }
        problems.require(self.chance_pairs.is_none_or(|pairs| pairs >= LOOK), || {
            let pairs = self.chance_pairs.unwrap_or_default();
            format!("watch.chance_pairs is {pairs}; it must be {LOOK} or more (null: not watched)")
        });
        problems.finish()
    }
}

/// The state of the watchdogs. It is part of a checkpoint, so that a resumed run does not warn twice.
///
/// The divergence is KL(π_ref ‖ π_θ), estimated as the mean of log π_ref − log π_θ over both completions of the pairs
/// (k1 of Schulman 2020, "Approximating KL divergence"; unbiased where the completions are the reference's own samples),
/// divided by the mean length of a completion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    recent: Metrics,
    pairs: u64,
    correct: f64,
    told: BTreeSet<String>,
}

impl Watch {
    /// Adds a step's pairs and returns the warnings that are now due.
    pub fn step(&mut self, metrics: &Metrics, config: &WatchConfig) -> Vec<String> {
        self.recent.merge(metrics);
        if self.recent.groups() < LOOK {
            return Vec::new();
        }
        let recent = std::mem::take(&mut self.recent);
        let mut due = Vec::new();
        due.extend(config.max_reward.and_then(|bound| exploded(&recent, bound)));
        due.extend(config.max_chosen_drop.and_then(|bound| collapsed(&recent, bound)));
        due.extend(config.max_kl.and_then(|bound| diverged(&recent, bound)));
        due.extend(config.chance_pairs.and_then(|pairs| self.stuck(&recent, pairs)));
        due.into_iter().filter(|(name, _)| self.told.insert((*name).into())).map(|(_, text)| text).collect()
    }

    /// Reports an accuracy over blocks of `block` pairs that is not two standard errors above one half.
    fn stuck(&mut self, recent: &Metrics, block: u64) -> Option<Warning> {
        let accuracy = recent.accuracy()?;
        self.pairs += recent.comparisons();
        self.correct += accuracy * recent.comparisons() as f64;
        if self.pairs < block {
            return None;
        }
        let (pairs, accuracy) = (self.pairs, self.correct / self.pairs as f64);
        (self.pairs, self.correct) = (0, 0.0);
        (accuracy <= 0.5 + 2.0 * (0.25 / pairs as f64).sqrt()).then(|| {
            let text = format!(
                "rewards/accuracies is {:.1} % over the last {pairs} pairs, which is chance: try a higher \
                 train.learning_rate or lora.r, or more epochs, and see whether chosen and rejected differ and are not swapped",
                100.0 * accuracy
            );
            ("chance", text)
        })
    }
}

/// A watchdog's name and its message.
type Warning = (&'static str, String);

fn exploded(recent: &Metrics, bound: f64) -> Option<Warning> {
    // Without a reference, a reward is a log-prob and its magnitude is not a distance.
    recent.kl()?;
    let (name, value) = [("rewards/chosen", recent.chosen()), ("rewards/rejected", recent.rejected())]
        .into_iter()
        .filter_map(|(name, side)| Some((name, side.reward()?)))
        .find(|(_, value)| value.abs() > bound)?;
    let text = format!(
        "{name} is {value:.1}, beyond watch.max_reward of {bound}: the policy is drifting away from the reference; try a lower \
         train.learning_rate, a higher objective.beta, or fewer epochs"
    );
    Some(("rewards", text))
}

fn collapsed(recent: &Metrics, bound: f64) -> Option<Warning> {
    let drop = -recent.chosen().log_ratio_per_token()?;
    (drop > bound).then(|| {
        let text = format!(
            "chosen completions lost {drop:.2} nats a token against the reference, beyond watch.max_chosen_drop of {bound}: \
             try a lower train.learning_rate, a higher objective.beta, or some objective.label_smoothing"
        );
        ("chosen", text)
    })
}

fn diverged(recent: &Metrics, bound: f64) -> Option<Warning> {
    let kl = recent.kl_per_token()?;
    (kl > bound).then(|| {
        let text = format!(
            "the policy is {kl:.2} nats a token from the reference (KL, estimated on the pairs), beyond watch.max_kl of \
             {bound}: look at `generate --compare` before continuing; try a higher objective.beta or fewer steps"
        );
        ("kl", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::{Cpo, Objective, Role, Scored};

    /// `n` pairs whose policy moved by these nats.
    fn pairs(n: usize, chosen: f64, rejected: f64) -> Metrics {
        let mut metrics = Metrics::default();
        for _ in 0..n {
            let scored = |role, moved: f64| Scored {
                group: 0,
                role,
                label: 1.0,
                margin: 0.0,
                logp: moved - 30.0,
                ref_logp: Some(-30.0),
                tokens: 20,
            };
            let pair = [scored(Role::Chosen, chosen), scored(Role::Rejected, rejected)];
            let objective = Objective::default();
            objective.measure(&pair, &objective.weigh(&pair).unwrap(), &mut metrics);
        }
        metrics
    }

    fn told(metrics: &Metrics) -> String {
        Watch::default().step(metrics, &WatchConfig::default()).join("\n")
    }

    #[test]
    fn each_bound_is_told_beyond_and_not_below_it() {
        // 50 rewards are 500 nats at beta 0.1; half a nat per token is 10 nats over 20 tokens; the KL is the mean of
        // both completions' losses.
        assert_eq!(told(&pairs(32, 3.0, -5.0)), "");
        assert!(
            told(&pairs(32, 510.0, 3.0)).contains("rewards/chosen is 51.0, beyond watch.max_reward of 50")
        );
        assert!(told(&pairs(32, 490.0, 3.0)).is_empty());
        assert!(told(&pairs(32, -10.4, -11.0)).contains("lost 0.52 nats a token"));
        assert!(told(&pairs(32, -9.6, -11.0)).is_empty());
        assert!(told(&pairs(32, -2.0, -40.0)).contains("is 1.05 nats a token from the reference"));
        assert!(told(&pairs(32, -2.0, -37.0)).is_empty());
    }

    #[test]
    fn rewards_without_a_reference_are_no_distance() {
        let scored = |role| Scored {
            group: 0,
            role,
            label: 1.0,
            margin: 0.0,
            logp: -900.0,
            ref_logp: None,
            tokens: 20,
        };
        let pair = [scored(Role::Chosen), scored(Role::Rejected)];
        let (objective, mut metrics) = (Objective::new(Cpo::default()), Metrics::default());
        for _ in 0..64 {
            objective.measure(&pair, &objective.weigh(&pair).unwrap(), &mut metrics);
        }
        assert_eq!(metrics.chosen().reward(), Some(-90.0));
        assert_eq!(told(&metrics), "");
    }

    #[test]
    fn a_few_pairs_are_no_reason_and_every_warning_comes_once() {
        let (config, mut watch) = (WatchConfig::default(), Watch::default());
        assert!(watch.step(&pairs(31, 900.0, 0.0), &config).is_empty());
        assert_eq!(watch.step(&pairs(1, 900.0, 0.0), &config).len(), 1);
        assert!(watch.step(&pairs(64, 900.0, 0.0), &config).is_empty());
        let saved = serde_json::to_string(&watch).unwrap();
        let mut resumed: Watch = serde_json::from_str(&saved).unwrap();
        assert_eq!(resumed, watch);
        assert!(resumed.step(&pairs(64, 900.0, 0.0), &config).is_empty());
    }

    #[test]
    fn chance_is_told_after_enough_pairs_and_a_real_preference_never() {
        let config = WatchConfig { chance_pairs: Some(400), ..Default::default() };
        // Of 400 pairs, two standard errors are 5 %: 54 % is chance, 58 % is not.
        let run = |right: usize| {
            let mut watch = Watch::default();
            let mut told = Vec::new();
            for _ in 0..4 {
                let mut metrics = pairs(right, 1.0, -1.0);
                metrics.merge(&pairs(100 - right, -1.0, 1.0));
                told.extend(watch.step(&metrics, &config));
            }
            told
        };
        assert!(run(54)[0].contains("54.0 % over the last 400 pairs"), "{:?}", run(54));
        assert!(run(58).is_empty());
    }

    #[test]
    fn null_turns_a_watchdog_off_and_nonsense_is_refused() {
        let off = WatchConfig { max_reward: None, max_chosen_drop: None, max_kl: None, chance_pairs: None };
        assert!(Watch::default().step(&pairs(2000, -9e4, -9e4), &off).is_empty());
        off.validate().unwrap();
        let wrong = WatchConfig { max_kl: Some(0.0), chance_pairs: Some(3), ..Default::default() };
        let message = wrong.validate().unwrap_err().to_string();
        assert!(
            message.contains("watch.max_kl is 0;") && message.contains("watch.chance_pairs is 3;"),
            "{message}"
        );
    }
}
