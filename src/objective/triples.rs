//! What the losses of triple preference optimization share: a loss of the margin between the policy's own log-probs, and
//! the negative log-likelihood of the gold answer.

use super::nll;
use super::pairs::{self, PairLoss};
use super::scored::{Role, Scored};
use super::terms::{self, Batch, Needs, Records, Weighed};
use crate::error::{Problems, Result};

/// The default of `beta` in TRL's `TPOConfig`.
pub(super) const BETA: f64 = 0.01;

/// By what the log-prob of a completion is divided before it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Divided {
    /// By nothing.
    Not,
    /// By its number of tokens.
    ByLength,
}

impl Divided {
    /// Returns the log-prob that is compared, nats.
    pub(super) fn logp(self, completion: &Scored) -> f64 {
        match self {
            Self::Not => completion.logp,
            Self::ByLength => completion.mean_logp(),
        }
    }

    fn slope(self, completion: &Scored) -> f64 {
        match self {
            Self::Not => 1.0,
            Self::ByLength => 1.0 / completion.tokens.max(1) as f64,
        }
    }
}

/// Returns what a loss with this weight of the gold answer is computed from: without a weight the gold answer is not
/// needed, and TRL leaves it out too.
pub(super) fn needs(tpo_alpha: f64) -> Needs {
    let imitates = tpo_alpha != 0.0;
    let records = if imitates { Records::Triples } else { Records::Pairs };
    Needs { reference: false, whole_batch: imitates, records, ..Needs::PAIRS }
}

/// Reports an invalid β, and an invalid weight of the gold answer.
pub(super) fn check(beta: f64, tpo_alpha: f64, problems: &mut Problems) {
    terms::check_beta(beta, problems);
    terms::check_weight("tpo_alpha", tpo_alpha, problems);
}

/// Adds `weight` times a loss of the difference δ between the log-probs of chosen and rejected, and `tpo_alpha` times the
/// mean negative log-prob per token of the gold answers. `loss` returns L and dL/dδ.
///
/// # Errors
/// Fails if a group is not a pair.
pub(super) fn add(
    batch: &Batch,
    (weight, tpo_alpha): (f64, f64),
    divided: Divided,
    onto: &mut Weighed,
    loss: impl Fn(f64) -> (f64, f64),
) -> Result<()> {
    pairs::add_pairs(batch, weight, onto, |pair| {
        let delta = divided.logp(pair.chosen) - divided.logp(pair.rejected);
        let (loss, slope) = pairs::with_label(pair.label(), delta, &loss);
        PairLoss {
            loss,
            d_chosen: slope * divided.slope(pair.chosen),
            d_rejected: -slope * divided.slope(pair.rejected),
        }
    })?;
    if tpo_alpha != 0.0 {
        let is_gold = |role| role == Role::Gold;
        nll::add(batch, weight * tpo_alpha, nll::tokens_per_record(batch, is_gold), is_gold, onto);
    }
    Ok(())
}
