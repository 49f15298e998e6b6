//! Contrastive preference optimization: Xu et al. 2024 (arXiv 2401.08417).
//!
//! DPO without a reference, plus the negative log-likelihood of the chosen completions. With x = β·(r_chosen −
//! r_rejected), r = log π_θ of the whole completion, and N the number of tokens in the micro-batch's chosen
//! completions:
//!
//! `L = −(1−ε)·log σ(x) − ε·log σ(−x) + cpo_alpha·(−Σ log π_θ(chosen)/N)`, `∂L/∂x = −(1−ε)·σ(−x) + ε·σ(x)`
//!
//! A nonzero `alpha` shapes the rewards as in AlphaPO, r = (1 − π_θ^(−α))/α. Exponents are capped at 80, where TRL
//! overflows. Keys and defaults are those of TRL's `CPOConfig`; its `loss_type: sigmoid` is called `cpo` here, because
//! `sigmoid` is DPO. With `cpo_alpha`, a soft label is rejected because the likelihood only uses the chosen answer.
//! With `cpo_alpha: 0` it gives y·L(x) + (1−y)·L(−x).

use serde::{Deserialize, Serialize};

use super::nll;
use super::numbers::power;
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Needs, Terms, Weighed, is_imitated};
use crate::error::{Problems, Result};

/// A preference loss without a reference, plus imitation of the chosen completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cpo {
    /// Scale of the rewards, above 0.
    pub beta: f64,
    /// ε: the assumed share of flipped labels, in [0, 0.5).
    pub label_smoothing: f64,
    /// Weight of the negative log-likelihood term.
    pub cpo_alpha: f64,
    /// α of AlphaPO's rewards; 0 uses the log-prob itself.
    pub alpha: f64,
}

impl Default for Cpo {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.0, cpo_alpha: 1.0, alpha: 0.0 }
    }
}

impl Terms for Cpo {
    fn needs(&self) -> Needs {
        let imitates = self.cpo_alpha != 0.0;
        Needs { reference: false, whole_batch: imitates, soft_labels: !imitates, ..Needs::PAIRS }
    }

    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
        terms::check_smoothing(self.label_smoothing, problems);
        terms::check_weight("cpo_alpha", self.cpo_alpha, problems);
        terms::check_finite("alpha", self.alpha, problems);
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
}

impl Cpo {
    fn pair(&self, pair: &Pair) -> PairLoss {
        let score = |completion| power(self.logp(completion), -self.alpha);
        let ((chosen, d_chosen), (rejected, d_rejected)) = (score(pair.chosen), score(pair.rejected));
        let (loss, slope) = pairs::with_label(pair.label(), chosen - rejected, |delta| {
            let (loss, slope) = pairs::cross_entropy(self.beta * delta, 1.0 - self.label_smoothing);
            (loss, self.beta * slope)
        });
        PairLoss { loss, d_chosen: slope * d_chosen, d_rejected: -slope * d_rejected }
    }
}
