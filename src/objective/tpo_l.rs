//! Triple preference optimization by length: Saeidi et al. 2024 (arXiv 2405.16681), TPO-L.
//!
//! As `tpo.rs`, with mean log-probs per token and a target margin γ. With δ = log π_θ(chosen)/n_c − log π_θ(rejected)/n_r,
//! n the number of scored tokens, x = βδ − γ and N the number of tokens in the micro-batch's gold answers:
//!
//! `L = −(1−ε)·log σ(x) − ε·log σ(−x) + tpo_alpha·(−Σ log π_θ(gold)/N)`, `∂L/∂δ = β·(−(1−ε)·σ(−x) + ε·σ(x))`
//!
//! This is `loss_type: tpo-l` of TRL's `TPOConfig`, with its keys and defaults. A soft label gives the losses of both
//! orders, weighted by y and 1 − y; each order has the target margin γ.

use serde::{Deserialize, Serialize};

use super::pairs;
use super::scored::Scored;
use super::terms::{self, Batch, Needs, Terms, Weighed};
use super::triples::{self, Divided};
use crate::error::{Problems, Result};

/// A target margin between mean log-probs, plus imitation of the gold answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TpoL {
    /// Scale of the rewards, above 0.
    pub beta: f64,
    /// ε: the assumed share of flipped labels, in [0, 0.5).
    pub label_smoothing: f64,
    /// Weight of the negative log-likelihood of the gold answer; 0 needs none.
    pub tpo_alpha: f64,
    /// γ: the target margin, in the units of the rewards.
    pub tpo_l_gamma: f64,
}

impl Default for TpoL {
    fn default() -> Self {
        Self { beta: triples::BETA, label_smoothing: 0.0, tpo_alpha: 1.0, tpo_l_gamma: 0.5 }
    }
}

impl Terms for TpoL {
    fn needs(&self) -> Needs {
        triples::needs(self.tpo_alpha)
    }

    fn check(&self, problems: &mut Problems) {
        triples::check(self.beta, self.tpo_alpha, problems);
        terms::check_smoothing(self.label_smoothing, problems);
        terms::check_finite("tpo_l_gamma", self.tpo_l_gamma, problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        triples::add(batch, (weight, self.tpo_alpha), Divided::ByLength, onto, |delta| {
            let (loss, slope) =
                pairs::cross_entropy(self.beta * delta - self.tpo_l_gamma, 1.0 - self.label_smoothing);
            (loss, self.beta * slope)
        })
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        Some(self.beta * self.logp(completion))
    }

    fn logp(&self, completion: &Scored) -> f64 {
        Divided::ByLength.logp(completion)
    }
}
