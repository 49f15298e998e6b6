//! PPO: Schulman et al. 2017 (arXiv 1707.06347) on completions, as in Ziegler et al. 2019 (arXiv 1909.08593) and TRL's
//! `experimental.ppo.PPOTrainer` (up to TRL 1.15), with its keys and defaults; the adaptive coefficient is that of
//! `AdaptiveKLController` (up to TRL 0.11).
//!
//! The reward of a token is `−kl_coef·k_t`, and of the last one also the reward of the completion. With the values V_t of
//! the scalar head before each token, `δ_t = r_t + gamma·V_{t+1} − V_t` (V = 0 behind the last token) and the advantage
//! `A_t = Σ_s (gamma·lam)^s δ_{t+s}` (GAE, arXiv 1506.02438), whitened over all tokens of the rollout, the loss is
//!
//! `mean over tokens of −min(w·A, clip(w, 1 ± cliprange)·A) + vf_coef·½·max((V − R)², (V' − R)²)`
//!
//! with the returns `R_t = A_t + V_t` (before whitening) and V' = V within `cliprange_value` of its old value. TRL adds the
//! reward one token behind the end, where there is one; here and in the papers it is at the last token.

use serde::{Deserialize, Serialize};

use super::super::scored::Scored;
use super::super::terms::{self, Batch, Needs, Terms, Weighed};
use super::group_relative::of_rollouts;
use super::{StepSize, advantages, clipped, needs};
use crate::error::{Error, Problems, Result};

/// How the divergence of a token is estimated from x = log π − log π_ref (Schulman 2020).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// x
    #[default]
    K1,
    /// e^{−x} − 1 + x
    K3,
}

/// Proximal policy optimization.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ppo {
    /// Passes over the completions of a rollout.
    pub num_ppo_epochs: usize,
    /// Updates in each pass.
    pub num_mini_batches: usize,
    /// Weight of the divergence from the reference in the rewards; with `adap_kl_ctrl` its first value.
    pub kl_coef: f64,
    /// How the divergence is estimated.
    pub kl_estimator: KlEstimator,
    /// Whether `kl_coef` follows the divergence (TRL's former `adap_kl_ctrl`).
    pub adap_kl_ctrl: bool,
    /// The divergence per completion that the adaptive coefficient aims at, nats.
    pub target_kl: f64,
    /// Completions in which the adaptive coefficient changes e-fold at most a fifth.
    pub horizon: f64,
    /// How far a ratio may be from 1.
    pub cliprange: f64,
    /// Weight of the loss of the values.
    pub vf_coef: f64,
    /// How far a value may be from its old one.
    pub cliprange_value: f64,
    /// Discount of later rewards.
    pub gamma: f64,
    /// λ of GAE.
    pub lam: f64,
    /// Whether rewards are whitened, without shifting their mean.
    pub whiten_rewards: bool,
}

impl Default for Ppo {
    fn default() -> Self {
        Self {
            num_ppo_epochs: 4,
            num_mini_batches: 1,
            kl_coef: 0.05,
            kl_estimator: KlEstimator::K1,
            adap_kl_ctrl: false,
            target_kl: 6.0,
            horizon: 10_000.0,
            cliprange: 0.2,
            vf_coef: 0.1,
            cliprange_value: 0.2,
            gamma: 1.0,
            lam: 0.95,
            whiten_rewards: false,
        }
    }
}

/// A completion of a rollout with what PPO learns from. All lists have one number per token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProximalInputs {
    /// log π_θ, nats.
    pub logps: Vec<f64>,
    /// The values of the scalar head before each token.
    pub values: Vec<f64>,
    /// log π by the policy that drew the completion.
    pub old_logps: Vec<f64>,
    /// The values then.
    pub old_values: Vec<f64>,
    /// Whitened advantages.
    pub advantages: Vec<f64>,
    /// Returns.
    pub returns: Vec<f64>,
}

/// A share of the loss, and its gradient.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProximalWeighed {
    /// The whole loss.
    pub loss: f64,
    /// Its part of the policy.
    pub policy_loss: f64,
    /// Its part of the values, without `vf_coef`.
    pub value_loss: f64,
    /// ∂loss / ∂ log-prob of each token, for each completion.
    pub d_logps: Vec<Vec<f64>>,
    /// ∂loss / ∂ value before each token.
    pub d_values: Vec<Vec<f64>>,
    /// Tokens whose ratio is clipped.
    pub clipped: usize,
}

/// What a rollout has before its first update: log-probs by the policy and the reference, values, and the reward.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawn {
    /// log π of each token by the policy that drew it.
    pub logps: Vec<f64>,
    /// The same by the reference.
    pub ref_logps: Vec<f64>,
    /// The values before each token.
    pub values: Vec<f64>,
    /// The reward of the completion.
    pub reward: f64,
}

/// The adaptive coefficient of the divergence (Ziegler et al. 2019, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdaptiveKl(pub f64);

impl AdaptiveKl {
    /// Moves the coefficient after a rollout of `completions` with this mean divergence per completion.
    pub fn update(&mut self, ppo: &Ppo, divergence: f64, completions: usize) {
        if ppo.adap_kl_ctrl {
            let error = (divergence / ppo.target_kl - 1.0).clamp(-0.2, 0.2);
            self.0 *= 1.0 + error * completions as f64 / ppo.horizon;
        }
    }
}

impl Terms for Ppo {
    fn needs(&self) -> Needs {
        needs(true)
    }

    fn check(&self, problems: &mut Problems) {
        for (key, value) in [
            ("kl_coef", self.kl_coef),
            ("cliprange", self.cliprange),
            ("vf_coef", self.vf_coef),
            ("cliprange_value", self.cliprange_value),
        ] {
            terms::check_weight(key, value, problems);
        }
        for (key, value) in [("gamma", self.gamma), ("lam", self.lam)] {
            problems.require((0.0..=1.0).contains(&value), || {
                format!("objective.{key} is {value}; it must be in [0, 1]")
            });
        }
        for (key, value) in [("target_kl", self.target_kl), ("horizon", self.horizon)] {
            problems.require(value.is_finite() && value > 0.0, || {
                format!("objective.{key} is {value}; it must be a finite number above 0")
            });
        }
        for (key, value) in
            [("num_ppo_epochs", self.num_ppo_epochs), ("num_mini_batches", self.num_mini_batches)]
        {
            problems.require(value > 0, || format!("objective.{key} is 0; it must be 1 or more"));
        }
    }

    fn add(&self, _: &Batch, _: f64, _: &mut Weighed) -> Result<()> {
        Err(of_rollouts())
    }

    fn reward(&self, _: &Scored) -> Option<f64> {
        None
    }
}

impl Ppo {
    /// Refuses a number of mini-batches that does not divide the completions of a step, as TRL does (`exact_div`).
    ///
    /// # Errors
    /// [`Error::Config`], which names the nearest number below that does.
    pub fn check_mini_batches(&self, completions: usize) -> Result<()> {
        let count = self.num_mini_batches;
        // 0 is refused with the objective.
        if count == 0 || completions.is_multiple_of(count) {
            return Ok(());
        }
        let fitting = (1..=count.min(completions)).rev().find(|count| completions.is_multiple_of(*count));
        Err(Error::Config(format!(
            "objective.num_mini_batches is {count}, and a step has {completions} completions \
             (train.per_device_train_batch_size × gradient_accumulation_steps), which cannot be divided into {count} equal \
             parts; set it to {}, or change the completions of a step",
            fitting.unwrap_or(1)
        )))
    }

    /// Returns the divergence estimate of each token of a completion.
    pub fn divergences(&self, drawn: &Drawn) -> Vec<f64> {
        let of = |(policy, reference): (&f64, &f64)| {
            let x = policy - reference;
            match self.kl_estimator {
                KlEstimator::K1 => x,
                KlEstimator::K3 => (-x).exp() - 1.0 + x,
            }
        };
        drawn.logps.iter().zip(&drawn.ref_logps).map(of).collect()
    }

    /// Returns what is learned from a rollout with this coefficient of the divergence.
    pub fn inputs(&self, rollout: &[Drawn], coefficient: f64) -> Vec<ProximalInputs> {
        let mut rewards: Vec<Vec<f64>> = rollout
            .iter()
            .map(|drawn| {
                let mut own: Vec<f64> = self.divergences(drawn).iter().map(|k| -coefficient * k).collect();
                if let Some(last) = own.last_mut() {
                    *last += drawn.reward;
                }
                own
            })
            .collect();
        if self.whiten_rewards {
            whiten(&mut rewards, false);
        }
        let mut all: Vec<Vec<f64>> = rewards
            .iter()
            .zip(rollout)
            .map(|(rewards, drawn)| self.advantages(rewards, &drawn.values))
            .collect();
        let sum = |(advantages, drawn): (&Vec<f64>, &Drawn)| {
            advantages.iter().zip(&drawn.values).map(|(a, v)| a + v).collect::<Vec<f64>>()
        };
        let returns: Vec<Vec<f64>> = all.iter().zip(rollout).map(sum).collect();
        whiten(&mut all, true);
        rollout
            .iter()
            .zip(all.into_iter().zip(returns))
            .map(|(drawn, (advantages, returns))| ProximalInputs {
                logps: drawn.logps.clone(),
                values: drawn.values.clone(),
                old_logps: drawn.logps.clone(),
                old_values: drawn.values.clone(),
                advantages,
                returns,
            })
            .collect()
    }

    /// Generalised advantage estimation.
    fn advantages(&self, rewards: &[f64], values: &[f64]) -> Vec<f64> {
        let mut advantages = vec![0.0; rewards.len()];
        let (mut next_value, mut next_advantage) = (0.0, 0.0);
        for t in (0..rewards.len()).rev() {
            let delta = rewards[t] + self.gamma * next_value - values[t];
            next_advantage = delta + self.gamma * self.lam * next_advantage;
            (next_value, advantages[t]) = (values[t], next_advantage);
        }
        advantages
    }

    /// Returns the share of an update's loss that some of its completions have, and its gradient. Means are over the tokens
    /// of the update.
    pub fn weigh(&self, batch: &[ProximalInputs], step: StepSize) -> ProximalWeighed {
        let weight = 1.0 / step.tokens.max(1) as f64;
        let mut found = ProximalWeighed::default();
        for inputs in batch {
            let n = inputs.logps.len();
            let (mut d_logps, mut d_values) = (vec![0.0; n], vec![0.0; n]);
            for t in 0..n {
                let w = (inputs.logps[t] - inputs.old_logps[t]).exp();
                let bounds = (self.cliprange, self.cliprange);
                let (loss, slope, is_clipped) = clipped(w, inputs.advantages[t], bounds, None);
                found.policy_loss += weight * loss;
                d_logps[t] = weight * slope * w;
                found.clipped += usize::from(is_clipped);
                let (value, old, goal) = (inputs.values[t], inputs.old_values[t], inputs.returns[t]);
                let (least, most) = (old - self.cliprange_value, old + self.cliprange_value);
                let near = value.clamp(least, most);
                let (plain, kept) = ((value - goal).powi(2), (near - goal).powi(2));
                found.value_loss += weight * 0.5 * plain.max(kept);
                let of_kept = if (least..=most).contains(&value) { near - goal } else { 0.0 };
                let slope = match plain.total_cmp(&kept) {
                    std::cmp::Ordering::Greater => value - goal,
                    std::cmp::Ordering::Less => of_kept,
                    std::cmp::Ordering::Equal => 0.5 * (value - goal + of_kept),
                };
                d_values[t] = weight * self.vf_coef * slope;
            }
            found.d_logps.push(d_logps);
            found.d_values.push(d_values);
        }
        found.loss = found.policy_loss + self.vf_coef * found.value_loss;
        found
    }
}

/// Divides by the standard deviation over all numbers, and moves their mean to 0 if `shift` is set.
fn whiten(lists: &mut [Vec<f64>], shift: bool) {
    let all: Vec<f64> = lists.iter().flatten().copied().collect();
    let (mean, variance) = (advantages::mean(&all), advantages::deviation(&all).powi(2));
    let scale = 1.0 / (variance + 1e-8).sqrt();
    for x in lists.iter_mut().flatten() {
        *x = (*x - mean) * scale + if shift { 0.0 } else { mean };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout() -> Vec<Drawn> {
        let of = |n: usize, seed: f64, reward: f64| {
            let draw = |k: f64, scale: f64| -> Vec<f64> {
                (0..n).map(|t| scale * ((t as f64 + 1.0) * k + seed).sin()).collect()
            };
            Drawn {
                logps: draw(1.3, 0.9).iter().map(|x| x - 1.2).collect(),
                ref_logps: draw(0.7, 0.8).iter().map(|x| x - 1.3).collect(),
                values: draw(2.1, 0.6),
                reward,
            }
        };
        vec![of(4, 0.3, 1.0), of(1, 1.1, -0.5), of(6, 2.0, 0.25)]
    }

    /// The definition as a double sum, and whitening by hand.
    #[test]
    fn advantages_are_those_of_the_definition() {
        let ppo = Ppo { gamma: 0.97, lam: 0.9, kl_estimator: KlEstimator::K3, ..Ppo::default() };
        let (rollout, mut raw) = (rollout(), Vec::new());
        for drawn in &rollout {
            let n = drawn.logps.len();
            let reward = |t: usize| {
                let x = drawn.logps[t] - drawn.ref_logps[t];
                -0.3 * ((-x).exp() - 1.0 + x) + if t + 1 == n { drawn.reward } else { 0.0 }
            };
            let value = |t: usize| if t < n { drawn.values[t] } else { 0.0 };
            let delta = |t: usize| reward(t) + 0.97 * value(t + 1) - value(t);
            raw.push(
                (0..n)
                    .map(|t| (t..n).map(|s| (0.97f64 * 0.9).powi((s - t) as i32) * delta(s)).sum::<f64>())
                    .collect::<Vec<f64>>(),
            );
        }
        let all: Vec<f64> = raw.iter().flatten().copied().collect();
        let mean = all.iter().sum::<f64>() / 11.0;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 10.0;
        let found = ppo.inputs(&rollout, 0.3);
        for ((inputs, raw), drawn) in found.iter().zip(&raw).zip(&rollout) {
            for (t, raw) in raw.iter().enumerate() {
                let whitened = (raw - mean) / (variance + 1e-8).sqrt();
                assert!((inputs.advantages[t] - whitened).abs() < 1e-12);
                assert!((inputs.returns[t] - raw - drawn.values[t]).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn slopes_are_those_of_finite_differences() {
        let ppo = Ppo { vf_coef: 0.7, ..Ppo::default() };
        let mut batch = ppo.inputs(&rollout(), 0.1);
        for (i, inputs) in batch.iter_mut().enumerate() {
            for t in 0..inputs.logps.len() {
                inputs.logps[t] += 0.5 * ((3 * i + t) as f64).sin();
                inputs.values[t] += 0.5 * ((5 * i + 2 * t) as f64).cos();
            }
        }
        let step = StepSize { completions: 3, micro_batches: 1, tokens: 11, max_completion_length: 6 };
        let (found, h) = (ppo.weigh(&batch, step), 1e-6);
        assert!(found.clipped > 0 && (found.loss - found.policy_loss - 0.7 * found.value_loss).abs() < 1e-15);
        for i in 0..batch.len() {
            for t in 0..batch[i].logps.len() {
                let moved = |which: usize, by: f64| {
                    let mut batch = batch.clone();
                    *(if which == 0 { &mut batch[i].logps[t] } else { &mut batch[i].values[t] }) += by;
                    ppo.weigh(&batch, step).loss
                };
                for (which, slope) in [found.d_logps[i][t], found.d_values[i][t]].into_iter().enumerate() {
                    let central = (moved(which, h) - moved(which, -h)) / (2.0 * h);
                    assert!((slope - central).abs() < 1e-7, "{i} {t} {which}: {slope} against {central}");
                }
            }
        }
    }

    #[test]
    fn the_coefficient_follows_the_divergence() {
        let ppo = Ppo { adap_kl_ctrl: true, target_kl: 6.0, horizon: 100.0, ..Ppo::default() };
        let mut coefficient = AdaptiveKl(0.2);
        coefficient.update(&ppo, 12.0, 50);
        assert!((coefficient.0 - 0.2 * 1.1).abs() < 1e-12, "the error is limited to a fifth");
        coefficient.update(&ppo, 5.4, 50);
        assert!((coefficient.0 - 0.22 * 0.95).abs() < 1e-12);
        coefficient.update(&Ppo::default(), 50.0, 50);
        assert!((coefficient.0 - 0.22 * 0.95).abs() < 1e-12, "it stays without adap_kl_ctrl");
    }

    #[test]
    fn mini_batches_divide_the_completions_of_a_step() {
        let check = |num_mini_batches, completions| {
            Ppo { num_mini_batches, ..Ppo::default() }.check_mini_batches(completions)
        };
        for (count, completions) in [(1, 5), (2, 4), (4, 4), (5, 50)] {
            check(count, completions).unwrap();
        }
        for (count, completions, fitting) in [(3, 4, 2), (50, 4, 4), (7, 30, 6), (2, 1, 1)] {
            let said = check(count, completions).unwrap_err().to_string();
            let begins = format!("objective.num_mini_batches is {count}, and a step has {completions}");
            assert!(said.starts_with(&begins) && said.contains(&format!("set it to {fitting},")), "{said}");
        }
    }
}
