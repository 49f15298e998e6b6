//! Simple preference optimization: Meng et al. 2024 (arXiv 2405.14734), equation 6.
//!
//! There is no reference: the reward r is the mean log-prob per token. With x = β·(r_chosen − r_rejected) − γ and N the
//! number of tokens in the micro-batch's chosen completions:
//!
//! `L = −(1−ε)·log σ(x) − ε·log σ(−x) + cpo_alpha·(−Σ log π_θ(chosen)/N)`, `∂L/∂x = −(1−ε)·σ(−x) + ε·σ(x)`
//!
//! Keys and defaults are those of TRL's `CPOConfig`. `cpo_alpha` therefore defaults to 1 (CPO-SimPO); **the paper's
//! loss has `cpo_alpha: 0`** and a β of 2 or more. A nonzero `alpha` shapes the rewards as in AlphaPO. With
//! `cpo_alpha`, a soft label is rejected. Otherwise it gives the losses of both orders, weighted by y and 1 − y; each
//! order has the target margin γ.

use serde::{Deserialize, Serialize};

use super::nll;
use super::numbers::power;
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Needs, Terms, Weighed, is_imitated};
use crate::error::{Problems, Result};

/// A target margin between mean log-probs, without a reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Simpo {
    /// Scale of the rewards, above 0.
    pub beta: f64,
    /// ε: the assumed share of flipped labels, in [0, 0.5).
    pub label_smoothing: f64,
    /// γ: the target margin, in the units of the rewards.
    pub simpo_gamma: f64,
    /// Weight of the negative log-likelihood term; 0 in the paper.
    pub cpo_alpha: f64,
    /// α of AlphaPO's rewards; 0 uses the log-prob itself.
    pub alpha: f64,
}

impl Default for Simpo {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.0, simpo_gamma: 0.5, cpo_alpha: 1.0, alpha: 0.0 }
    }
}

impl Terms for Simpo {
    fn needs(&self) -> Needs {
        let imitates = self.cpo_alpha != 0.0;
        Needs { reference: false, whole_batch: imitates, soft_labels: !imitates, ..Needs::PAIRS }
    }

    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
        terms::check_smoothing(self.label_smoothing, problems);
        terms::check_weight("cpo_alpha", self.cpo_alpha, problems);
        terms::check_finite("alpha", self.alpha, problems);
        terms::check_finite("simpo_gamma", self.simpo_gamma, problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        pairs::add_pairs(batch, weight, onto, |pair| self.pair(pair))?;
        if self.cpo_alpha != 0.0 {
            let tokens = nll::tokens_per_record(batch, is_imitated);
            nll::add(batch, weight * self.cpo_alpha, tokens, is_imitated, onto);
        }
        Ok(())
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        Some(self.beta * power(self.logp(completion), -self.alpha).0)
    }

    fn logp(&self, completion: &Scored) -> f64 {
        completion.mean_logp()
    }
}

impl Simpo {
    fn pair(&self, pair: &Pair) -> PairLoss {
        let score = |completion| power(self.logp(completion), -self.alpha);
        let ((chosen, d_chosen), (rejected, d_rejected)) = (score(pair.chosen), score(pair.rejected));
        let (loss, slope) = pairs::with_label(pair.label(), chosen - rejected, |delta| {
            let (loss, slope) =
                pairs::cross_entropy(self.beta * delta - self.simpo_gamma, 1.0 - self.label_smoothing);
            (loss, self.beta * slope)
        });
        let over = |completion: &Scored| 1.0 / completion.tokens.max(1) as f64;
        PairLoss {
            loss,
            d_chosen: slope * d_chosen * over(pair.chosen),
            d_rejected: -slope * d_rejected * over(pair.rejected),
        }
    }
}
