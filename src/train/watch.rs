//! Watchdogs: one-line warnings when training goes wrong. Each is given once per run, with a suggested remedy.
//!
//! Of a loss of completions that the policy draws, the rewards are those of `rollout.reward`, and no completion is chosen or
//! rejected: of the bounds only `max_kl` applies, where the loss computes a divergence. What such a run can lack is told without
//! a bound: rewards that differ, and completions that count.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::{Problems, Result};
use crate::objective::{Figure, Metrics};

/// The number of pairs (or drawn completions) to average over: single steps are too noisy to warn about.
const LOOK: u64 = 32;

/// The number of groups of drawn completions after which it is told that all of them were in vain.
const LOOK_GROUPS: u64 = 16;

/// The number of steps in a row without any gradient after which it is told.
const IDLE_STEPS: u64 = 5;

/// The `watch` section of a run's configuration: bounds beyond which a warning is given. `null` turns a watchdog off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchConfig {
    /// The largest magnitude of a mean reward, in units of reward (β times nats).
    pub max_reward: Option<f64>,
    /// Nats per token that chosen completions may lose relative to the reference.
    pub max_chosen_drop: Option<f64>,
    /// The largest divergence from the reference, in nats per token; see [`Watch`] for the estimators.
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
/// divided by the mean length of a completion. Of completions that the policy draws it is KL(π_θ ‖ π_ref), by the estimator of
/// the loss (the figure `kl`), per token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    recent: Metrics,
    pairs: u64,
    correct: f64,
    told: BTreeSet<String>,
    /// Groups of drawn completions since they were last looked at.
    #[serde(default, skip_serializing_if = "Completed::is_nothing")]
    completed: Completed,
    /// Steps in a row, up to the last one, whose gradient was exactly 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    idle: u64,
}

/// Whether a count need not be written.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What decides about the warnings of drawn completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completing {
    /// Whether completions without an end token are left out of the loss.
    pub masks: bool,
    /// Whether this was the last step of the run.
    pub is_last: bool,
}

/// Counts of drawn completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Completed {
    /// Groups whose rewards were compared.
    groups: u64,
    /// Those of them whose rewards were all equal.
    tied: u64,
    completions: u64,
    /// Completions without an end token.
    cut: u64,
    /// Whether there was a look before.
    looked: bool,
}

impl Completed {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
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
        due.extend(config.max_kl.and_then(|bound| strayed(&recent, bound)));
        due.extend(config.chance_pairs.and_then(|pairs| self.stuck(&recent, pairs)));
        self.untold(due)
    }

    /// Adds the norm of a step's gradient and returns the warnings that are now due. Between given completions, a gradient that is
    /// exactly 0 is no chance: either nothing reaches the adapter, or the loss asks for nothing.
    pub fn gradient(&mut self, norm: f64) -> Vec<String> {
        self.idle = if norm == 0.0 { self.idle + 1 } else { 0 };
        self.untold((self.idle >= IDLE_STEPS).then(no_gradient).into_iter().collect())
    }

    /// Adds a step's drawn completions and returns the warnings that are now due. A run that ends before the first look is
    /// looked at as a whole.
    pub fn completed(&mut self, metrics: &Metrics, by: Completing) -> Vec<String> {
        let count = |figure| metrics.figure(figure).map_or((0, 0), |(sum, count)| (sum as u64, count));
        let ((tied, groups), (cut, completions)) =
            (count(Figure::TiedRewards), count(Figure::ClippedCompletions));
        let seen = &mut self.completed;
        seen.groups += groups;
        seen.tied += tied;
        seen.completions += completions;
        seen.cut += cut;
        // Where nothing is compared (one completion a step), completions are counted instead.
        let enough = if seen.groups > 0 { seen.groups >= LOOK_GROUPS } else { seen.completions >= LOOK };
        if seen.completions == 0 || !(enough || by.is_last && !seen.looked) {
            return Vec::new();
        }
        let seen = std::mem::replace(seen, Completed { looked: true, ..Completed::default() });
        let due = [tied_rewards(&seen), by.masks.then(|| all_masked(&seen)).flatten()];
        self.untold(due.into_iter().flatten().collect())
    }

    /// The texts of warnings that were not given before.
    fn untold(&mut self, due: Vec<Warning>) -> Vec<String> {
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

fn no_gradient() -> Warning {
    let text = format!(
        "grad_norm was exactly 0 in each of the last {IDLE_STEPS} steps, so that nothing is learned: see whether the base's \
         weights are complete (a matrix of zeros lets nothing through), whether all labels are 0.5, and whether every pair is \
         already beyond the margin of the loss (hinge), which then asks for nothing more"
    );
    ("gradient", text)
}

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

/// The divergence of drawn completions: by the figure `kl`, which is of tokens, and of PPO of completions.
fn strayed(recent: &Metrics, bound: f64) -> Option<Warning> {
    let (sum, count) = recent.figure(Figure::Kl).filter(|_| recent.kl().is_none())?;
    let tokens = match recent.figure(Figure::KlCoef) {
        Some(_) => recent.figure(Figure::CompletionLength)?.0,
        None => count as f64,
    };
    let kl = sum / tokens.max(1.0);
    (kl > bound).then(|| {
        let text = format!(
            "the policy is {kl:.2} nats a token from the reference (KL, estimated on the completions that it draws), beyond \
             watch.max_kl of {bound}: read some of them before continuing; try a lower train.learning_rate, a higher \
             objective.beta (kl_coef of ppo), or fewer steps"
        );
        ("kl", text)
    })
}

fn tied_rewards(seen: &Completed) -> Option<Warning> {
    (seen.groups > 0 && seen.tied == seen.groups).then(|| {
        let text = format!(
            "in each of the last {} groups of completions that are compared, all had the same reward, so that the reward \
             teaches nothing (frac_reward_zero_std is 1): look at what rollout.reward gives, draw more or more different \
             completions (rollout.num_generations, rollout.temperature), or take prompts that the policy answers neither \
             always well nor never",
            seen.groups
        );
        ("tied", text)
    })
}

fn all_masked(seen: &Completed) -> Option<Warning> {
    (seen.completions > 0 && seen.cut == seen.completions).then(|| {
        let text = format!(
            "each of the last {} completions was cut at rollout.max_completion_length, and \
             objective.mask_truncated_completions leaves out what is cut, so that nothing is learned: raise \
             rollout.max_completion_length, or set mask_truncated_completions to false",
            seen.completions
        );
        ("masked", text)
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
    fn steps_without_a_gradient_are_told_once_when_there_are_several_in_a_row() {
        let mut watch = Watch::default();
        let mut told =
            |norms: &[f64]| -> usize { norms.iter().map(|norm| watch.gradient(*norm).len()).sum() };
        assert_eq!(told(&[0.0, 0.0, 0.0, 0.0, 1e-30]), 0);
        assert_eq!(told(&[0.0, 0.0, 0.0, 0.0]), 0);
        // The count goes on after a resume.
        let saved = serde_json::to_string(&watch).unwrap();
        let mut resumed: Watch = serde_json::from_str(&saved).unwrap();
        assert!(resumed.gradient(0.0)[0].contains("exactly 0 in each of the last 5 steps"));
        assert!((0..20).all(|_| resumed.gradient(0.0).is_empty()));
        assert!(!serde_json::to_string(&Watch::default()).unwrap().contains("idle"));
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

    /// The figures of a step of drawn completions.
    fn drawn(groups: u64, tied: u64, completions: u64, cut: u64) -> Metrics {
        let mut metrics = Metrics::default();
        metrics.add_loss(0.0, completions);
        metrics.note(Figure::TiedRewards, tied as f64, groups);
        metrics.note(Figure::ClippedCompletions, cut as f64, completions);
        metrics.note(Figure::CompletionLength, 10.0 * completions as f64, completions);
        metrics
    }

    #[test]
    fn completions_in_vain_are_told_of_when_all_of_a_window_are() {
        let by = |masks, is_last| Completing { masks, is_last };
        let told = |steps: &[Metrics], masks| -> Vec<String> {
            let mut watch = Watch::default();
            let last = steps.len() - 1;
            let step = |(i, metrics): (usize, &Metrics)| watch.completed(metrics, by(masks, i == last));
            steps.iter().enumerate().flat_map(step).collect()
        };
        let (tied, one_differs) = (drawn(4, 4, 32, 32), drawn(4, 3, 32, 31));
        let found = told(&vec![tied.clone(); 12], false);
        assert!(found.len() == 1 && found[0].contains("the last 16 groups"), "{found:?}");
        let found = told(&vec![tied.clone(); 12], true);
        assert!(found.len() == 2 && found[1].contains("the last 128 completions was cut"), "{found:?}");
        // A short run is looked at when it ends, and one that went well before is not.
        assert!(told(&[tied.clone(), tied.clone()], true)[0].contains("the last 8 groups"));
        let mut well = vec![one_differs; 4];
        well.push(tied.clone());
        assert_eq!(told(&well, true), [""; 0]);
        // It is part of the state, and of no state without drawn completions.
        let mut watch = Watch::default();
        assert!(!serde_json::to_string(&watch).unwrap().contains("completed"));
        (0..3).for_each(|_| drop(watch.completed(&tied, by(false, false))));
        let saved = serde_json::to_string(&watch).unwrap();
        let mut resumed: Watch = serde_json::from_str(&saved).unwrap();
        assert_eq!(resumed.completed(&tied, by(false, false)).len(), 1);
        // PPO with one completion a step compares nothing.
        assert!(told(&vec![drawn(0, 0, 1, 1); 40], false).is_empty());
        assert!(told(&vec![drawn(0, 0, 1, 1); 40], true)[0].contains("the last 32 completions"));
    }

    #[test]
    fn the_divergence_of_drawn_completions_is_watched_per_token() {
        let step = |kl: f64, count: u64, is_ppo: bool| {
            let mut metrics = drawn(4, 0, 32, 0);
            metrics.note(Figure::Kl, kl, count);
            if is_ppo {
                metrics.note(Figure::KlCoef, 0.0, 1);
            }
            told(&metrics)
        };
        // 32 completions of 10 tokens: the figure of PPO is per completion, that of the others per token.
        assert!(step(352.0, 32, true).contains("is 1.10 nats a token from the reference"));
        assert!(step(352.0, 320, false).contains("is 1.10 nats a token from the reference"));
        assert_eq!((step(288.0, 32, true), step(288.0, 320, false)), (String::new(), String::new()));
        // KTO's estimate is of given completions, whose divergence is watched as that of pairs.
        let mut kto = pairs(32, -2.0, -3.0);
        kto.note(Figure::Kl, 99.0, 1);
        assert_eq!(told(&kto), "");
    }
}
