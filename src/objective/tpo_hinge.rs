//! Triple preference optimization (Saeidi et al. 2024, arXiv 2405.16681) with the hinge loss of SLiC (Zhao et al. 2023,
//! arXiv 2305.10425).
//!
//! As `tpo.rs`, with δ = log π_θ(chosen) − log π_θ(rejected) and N the number of tokens in the micro-batch's gold answers:
//!
//! `L = max(0, 1 − βδ) + tpo_alpha·(−Σ log π_θ(gold)/N)`, `∂L/∂δ = −β` where βδ < 1, else 0
//!
//! This is `loss_type: hinge` of TRL's `TPOConfig`, which takes `label_smoothing` for this loss and ignores it; here it is
//! refused. A soft label y gives y·L(δ) + (1−y)·L(−δ).

use serde::{Deserialize, Serialize};

use super::scored::Scored;
use super::terms::{Batch, Needs, Terms, Weighed};
use super::triples::{self, Divided};
use crate::error::{Problems, Result};

/// The amount by which the policy's own margin falls short of 1, plus imitation of the gold answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TpoHinge {
    /// Scale of the rewards, above 0.
    pub beta: f64,
    /// Weight of the negative log-likelihood of the gold answer; 0 needs none.
    pub tpo_alpha: f64,
}

impl Default for TpoHinge {
    fn default() -> Self {
        Self { beta: triples::BETA, tpo_alpha: 1.0 }
    }
}

impl Terms for TpoHinge {
    fn needs(&self) -> Needs {
        triples::needs(self.tpo_alpha)
    }

    fn check(&self, problems: &mut Problems) {
        triples::check(self.beta, self.tpo_alpha, problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        triples::add(batch, (weight, self.tpo_alpha), Divided::Not, onto, |delta| {
            let short = 1.0 - self.beta * delta;
            // A margin that is not a number stays one.
            if short <= 0.0 { (0.0, 0.0) } else { (short, -self.beta) }
        })
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        Some(self.beta * completion.logp)
    }
}
