//! Triple preference optimization (Saeidi et al. 2024, arXiv 2405.16681) with the loss of IPO (Azar et al. 2023, arXiv
//! 2310.12036).
//!
//! As `tpo.rs`, with δ = log π_θ(chosen)/n_c − log π_θ(rejected)/n_r, n the number of scored tokens, and N the number of
//! tokens in the micro-batch's gold answers:
//!
//! `L = (δ − 1/(2β))² + tpo_alpha·(−Σ log π_θ(gold)/N)`, `∂L/∂δ = 2·(δ − 1/(2β))`
//!
//! This is `loss_type: ipo` of TRL's `TPOConfig`, which takes `label_smoothing` for this loss and ignores it; here it is
//! refused. A soft label y gives y·L(δ) + (1−y)·L(−δ).

use serde::{Deserialize, Serialize};

use super::scored::Scored;
use super::terms::{Batch, Needs, Terms, Weighed};
use super::triples::{self, Divided};
use crate::error::{Problems, Result};

/// Squared distance between the difference of the mean log-probs and its optimum, plus imitation of the gold answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TpoIpo {
    /// τ: the optimum is 1/(2τ); above 0.
    pub beta: f64,
    /// Weight of the negative log-likelihood of the gold answer; 0 needs none.
    pub tpo_alpha: f64,
}

impl Default for TpoIpo {
    fn default() -> Self {
        Self { beta: triples::BETA, tpo_alpha: 1.0 }
    }
}

impl Terms for TpoIpo {
    fn needs(&self) -> Needs {
        triples::needs(self.tpo_alpha)
    }

    fn check(&self, problems: &mut Problems) {
        triples::check(self.beta, self.tpo_alpha, problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        triples::add(batch, (weight, self.tpo_alpha), Divided::ByLength, onto, |delta| {
            let apart = delta - 1.0 / (2.0 * self.beta);
            (apart * apart, 2.0 * apart)
        })
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        Some(self.beta * self.logp(completion))
    }

    fn logp(&self, completion: &Scored) -> f64 {
        Divided::ByLength.logp(completion)
    }
}
