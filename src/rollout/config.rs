//! The `rollout:` section of the YAML.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Problems, Result};
use crate::objective::{Objective, OnPolicy, Records};

/// How completions are drawn and rewarded. Names and defaults are those of TRL 1.16's `GRPOConfig`, `RLOOConfig` and
/// `OnlineDPOConfig` (its `max_new_tokens` is `max_completion_length`), and of `PPOConfig` up to TRL 1.15
/// (`response_length`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutConfig {
    /// The rewards of a completion, each as `generate --reward` takes it. With a loss of pairs, they make the run one of
    /// online DPO. `null`: nothing is drawn.
    pub reward: Option<Rewards>,
    /// The weights of several rewards; `null`: 1 for each.
    pub reward_weights: Option<Vec<f64>>,
    /// What a completion without an end token loses of its reward; `null`: nothing.
    pub missing_eos_penalty: Option<f64>,
    /// Seconds that a command may take to score a batch.
    pub reward_timeout: u64,
    /// Completions of a prompt; `null`: 8 for GRPO and its relatives, 2 for `rloo` and pairs, 1 for `ppo`.
    pub num_generations: Option<usize>,
    /// Most tokens of a completion; `null`: 512, for pairs 64, for `ppo` 53.
    pub max_completion_length: Option<usize>,
    /// Softmax temperature; `null`: 1.0, for pairs 0.9, for `ppo` 0.7.
    pub temperature: Option<f64>,
    /// Only the most likely tokens with this total probability are drawn; `null`: all.
    pub top_p: Option<f64>,
    /// Only so many of the most likely tokens are drawn; `null`: all.
    pub top_k: Option<usize>,
}

/// One reward or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected the name of a reward, such as length, or a list of names; put a name that ends in a colon, or has one \
                 before a space, in quotes of its own: \"command:PROGRAM\""
)]
pub enum Rewards {
    /// One.
    One(String),
    /// Several, which are added.
    Several(Vec<String>),
}

/// The settings of rollouts for a loss, without what is null.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawing {
    /// The rewards and their weights.
    pub rewards: Vec<(String, f64)>,
    /// What a completion without an end token loses of its reward.
    pub missing_eos_penalty: f64,
    /// Seconds that a command may take to score a batch.
    pub reward_timeout: u64,
    /// Completions of a prompt.
    pub generations: usize,
    /// Most tokens of a completion.
    pub max_completion_length: usize,
    /// Softmax temperature.
    pub temperature: f64,
    /// Limit of the total probability.
    pub top_p: Option<f64>,
    /// Limit of the number of tokens.
    pub top_k: Option<usize>,
    /// Updates with the completions of one generation.
    pub iterations: usize,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self {
            reward: None,
            reward_weights: None,
            missing_eos_penalty: None,
            reward_timeout: 600,
            num_generations: None,
            max_completion_length: None,
            temperature: None,
            top_p: None,
            top_k: None,
        }
    }
}

impl RolloutConfig {
    /// Returns the settings for a loss; `None` if nothing is drawn.
    ///
    /// # Errors
    /// [`Error::Config`], which names every invalid value, and what does not fit the loss.
    pub fn resolve(&self, objective: &Objective) -> Result<Option<Drawing>> {
        let (own, needs) = (objective.on_policy(), objective.needs());
        let specs = match &self.reward {
            Some(Rewards::One(spec)) => vec![spec.clone()],
            Some(Rewards::Several(specs)) => specs.clone(),
            None => Vec::new(),
        };
        if specs.is_empty() && own.is_none() {
            return match *self == Self::default() {
                true => Ok(None),
                false => Err(Error::Config(
                    "rollout is set, but rollout.reward names no reward and objective.loss_type draws nothing; name a reward, \
                     or remove the section"
                        .into(),
                )),
            };
        }
        let mut problems = Problems::default();
        problems.require(!specs.is_empty(), || {
            "rollout.reward is null, and objective.loss_type learns from rewards; name one, such as length or adapter:DIR".into()
        });
        let is_online = own.is_none();
        problems.require(!is_online || (needs.records == Records::Pairs && !needs.rewards), || {
            "rollout.reward is set, and objective.loss_type is not one of pairs or of drawn completions; remove it, or take \
             sigmoid (online DPO), grpo, rloo or ppo"
                .into()
        });
        let (generations, length, temperature, iterations) = match own {
            Some(OnPolicy::Grouped(loss, _)) => (8, 512, 1.0, loss.num_iterations),
            Some(OnPolicy::LeaveOneOut(loss)) => (2, 512, 1.0, loss.num_iterations),
            Some(OnPolicy::Proximal(_)) => (1, 53, 0.7, 1),
            None => (2, 64, 0.9, 1),
        };
        let drawing = Drawing {
            rewards: specs.iter().cloned().zip(self.weights(specs.len(), &mut problems)).collect(),
            missing_eos_penalty: self.missing_eos_penalty.unwrap_or(0.0),
            reward_timeout: self.reward_timeout,
            generations: self.num_generations.unwrap_or(generations),
            max_completion_length: self.max_completion_length.unwrap_or(length),
            temperature: self.temperature.unwrap_or(temperature),
            top_p: self.top_p,
            top_k: self.top_k,
            iterations,
        };
        let fewest = if matches!(own, Some(OnPolicy::Proximal(_))) { 1 } else { 2 };
        drawing.check(fewest, &mut problems);
        problems.finish().map(|()| Some(drawing))
    }

    fn weights(&self, count: usize, problems: &mut Problems) -> Vec<f64> {
        let Some(weights) = &self.reward_weights else { return vec![1.0; count] };
        problems.require(weights.len() == count && weights.iter().all(|weight| weight.is_finite()), || {
            format!(
                "rollout.reward_weights has {} numbers and rollout.reward {count} rewards; give one finite weight for each",
                weights.len()
            )
        });
        weights.clone()
    }
}

impl Drawing {
    fn check(&self, fewest: usize, problems: &mut Problems) {
        problems.require(self.generations >= fewest, || {
            format!(
                "rollout.num_generations is {}; the loss compares the completions of a prompt, so there must be {fewest} or more",
                self.generations
            )
        });
        problems.require(self.max_completion_length > 0, || {
            "rollout.max_completion_length is 0; it must be 1 or more".into()
        });
        problems
            .require(self.reward_timeout > 0, || "rollout.reward_timeout is 0; it must be 1 or more".into());
        problems.require(self.temperature.is_finite() && self.temperature > 0.0, || {
            format!("rollout.temperature is {}; it must be a finite number above 0", self.temperature)
        });
        problems.require(self.top_p.is_none_or(|p| p > 0.0 && p <= 1.0), || {
            format!("rollout.top_p is {}; it must be above 0 and at most 1", self.top_p.unwrap_or_default())
        });
        problems.require(self.top_k != Some(0), || "rollout.top_k is 0; write null for all tokens".into());
        let penalty = self.missing_eos_penalty;
        problems.require(penalty.is_finite() && penalty >= 0.0, || {
            format!("rollout.missing_eos_penalty is {penalty}; it must be a finite number, 0 or above")
        });
    }

    /// Returns how many prompts a step draws for, if it learns from so many completions.
    ///
    /// # Errors
    /// [`Error::Config`] if they cannot be divided into whole groups.
    pub fn prompts(&self, completions: usize) -> Result<usize> {
        if completions.is_multiple_of(self.generations) && completions > 0 {
            return Ok(completions / self.generations);
        }
        Err(Error::Config(format!(
            "a step has {completions} completions (train.per_device_train_batch_size × gradient_accumulation_steps), which are not \
             whole groups of {}; make it a multiple, or change rollout.num_generations",
            self.generations
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::{Grpo, Ipo, Kto, Ppo, Rloo};

    fn with_reward(yaml: &str) -> RolloutConfig {
        serde_yaml::from_str(&format!("{{reward: length, {yaml}}}")).unwrap()
    }

    #[test]
    fn defaults_are_those_of_trl() {
        let of = |objective: Objective| {
            let found = with_reward("").resolve(&objective).unwrap().unwrap();
            (found.generations, found.max_completion_length, found.temperature)
        };
        assert_eq!(of(Objective::new(Grpo::default())), (8, 512, 1.0));
        assert_eq!(of(Objective::new(Rloo::default())), (2, 512, 1.0));
        assert_eq!(of(Objective::new(Ppo::default())), (1, 53, 0.7));
        assert_eq!(of(Objective::new(Ipo::default())), (2, 64, 0.9));
        assert_eq!(RolloutConfig::default().resolve(&Objective::default()).unwrap(), None);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let said =
            |yaml: &str, objective: Objective| with_reward(yaml).resolve(&objective).unwrap_err().to_string();
        assert!(
            RolloutConfig::default()
                .resolve(&Objective::new(Ppo::default()))
                .unwrap_err()
                .to_string()
                .contains("rollout.reward is null")
        );
        assert!(said("", Objective::new(Kto::default())).contains("not one of pairs"));
        let message = said(
            "num_generations: 1, max_completion_length: 0, temperature: 0, top_p: 2, reward_weights: [1, 2]",
            Objective::new(Grpo::default()),
        );
        for key in ["num_generations", "max_completion_length", "temperature", "top_p", "reward_weights"] {
            assert!(message.contains(key), "{key} in {message}");
        }
        let drawing =
            with_reward("num_generations: 4").resolve(&Objective::new(Grpo::default())).unwrap().unwrap();
        assert_eq!(drawing.prompts(8).unwrap(), 2);
        assert!(drawing.prompts(6).unwrap_err().to_string().contains("6 completions"));
    }
}
