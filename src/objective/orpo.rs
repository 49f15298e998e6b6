//! Odds ratio preference optimization: Hong et al. 2024 (arXiv 2403.07691), equations 6 and 7.
//!
//! There is no reference. Let p be the mean log-prob per token, log odds = p − log(1 − eᵖ), o the difference of the log
//! odds between chosen and rejected, and N the number of tokens in prompts and chosen completions of the micro-batch:
//!
//! `L = −Σ log π_θ(prompt, chosen)/N + β·(−log σ(o))`
//!
//! The likelihood includes the prompt, as in TRL and in the authors' code; the paper's equation 3 has only the
//! completion. `∂(−log σ(o))/∂p = ∓σ(−o)/(1 − eᵖ)`. For a likely chosen completion it is written as −O_r/(e^(p_c) +
//! O_r·(1 − e^(p_c))) with O_r the odds of the rejected one, which avoids 0/0. p is clamped to at most −1e-10, because
//! the odds of certain tokens are infinite. β is the paper's λ. Soft labels and `train.max_tokens_per_batch` are
//! rejected, as in `sft`.

use serde::{Deserialize, Serialize};

use super::metrics::Figure;
use super::nll;
use super::numbers::{sigmoid, softplus};
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Role, Scored};
use super::terms::{self, Batch, Needs, Terms, Weighed, is_estimate};
use crate::error::{Problems, Result};

/// Imitation of the chosen completion, plus its odds ratio to the rejected one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Orpo {
    /// λ: weight of the odds-ratio term, above 0.
    pub beta: f64,
}

impl Default for Orpo {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Terms for Orpo {
    fn needs(&self) -> Needs {
        Needs { reference: false, prompt: true, whole_batch: true, soft_labels: false, ..Needs::PAIRS }
    }

    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        pairs::add_pairs(batch, weight, onto, |pair| self.pair(pair))?;
        let imitated = |role| matches!(role, Role::Chosen | Role::Prompt);
        nll::add(batch, weight, nll::tokens_per_record(batch, imitated), imitated, onto);
        self.note(batch, onto)
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        Some(self.beta * completion.mean_logp())
    }

    fn logp(&self, completion: &Scored) -> f64 {
        completion.mean_logp()
    }
}

impl Orpo {
    fn pair(&self, pair: &Pair) -> PairLoss {
        let (chosen, rejected) = (Odds::of(pair.chosen), Odds::of(pair.rejected));
        let o = chosen.log - rejected.log;
        let by_chosen = if chosen.rest < 0.5 {
            let odds = rejected.log.exp();
            -odds / (chosen.p + odds * chosen.rest)
        } else {
            -sigmoid(-o) / chosen.rest
        };
        let by_rejected = sigmoid(-o) / rejected.rest;
        PairLoss {
            loss: self.beta * softplus(-o),
            d_chosen: self.beta * by_chosen / pair.chosen.tokens.max(1) as f64,
            d_rejected: self.beta * by_rejected / pair.rejected.tokens.max(1) as f64,
        }
    }

    /// Notes what TRL logs: the mean log odds ratio of chosen to rejected, and the mean of its log σ.
    fn note(&self, batch: &Batch, onto: &mut Weighed) -> Result<()> {
        let (mut log_odds, mut log_sigmoid, mut records) = (0.0, 0.0, 0);
        for (_, group) in batch.groups().filter(|(_, group)| !is_estimate(group)) {
            let pair = super::scored::pair(group)?;
            let o = Odds::of(pair.chosen).log - Odds::of(pair.rejected).log;
            log_odds += o;
            log_sigmoid -= softplus(-o);
            records += 1;
        }
        onto.figures.push((Figure::LogOddsChosen, log_odds, records));
        onto.figures.push((Figure::LogOddsRatio, log_sigmoid, records));
        Ok(())
    }
}

/// The odds of a completion, from its mean log-prob per token.
struct Odds {
    /// eᵖ.
    p: f64,
    /// 1 − eᵖ.
    rest: f64,
    /// p − log(1 − eᵖ).
    log: f64,
}

impl Odds {
    fn of(completion: &Scored) -> Self {
        let mean = completion.mean_logp();
        // `min` would hide a NaN log-prob.
        let mean = if mean > -1e-10 { -1e-10 } else { mean };
        let (p, rest) = (mean.exp(), -mean.exp_m1());
        // Below −log 2, ln_1p computes log(1 − eᵖ) accurately.
        let log_rest = if mean < -std::f64::consts::LN_2 { (-p).ln_1p() } else { rest.ln() };
        Self { p, rest, log: mean - log_rest }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{logps, pair_of};
    use super::*;

    #[test]
    fn agrees_with_the_odds_by_hand() {
        // 4 and 3 tokens of probability 1/2 and 1/4: odds 1 and 1/3, their ratio 3.
        let batch = logps([4.0 * 0.5f64.ln(), 3.0 * 0.25f64.ln(), 0.0, 0.0]);
        let found = pair_of(&Orpo { beta: 0.5 }, &batch);
        let expected = 2f64.ln() + 0.5 * (4f64 / 3.0).ln();
        assert!((found.loss - expected).abs() < 1e-12, "{}", found.loss);
    }

    #[test]
    fn certain_tokens_have_finite_odds() {
        for (chosen, rejected) in [(0.0, -1e4), (-1e4, 0.0), (0.0, 0.0)] {
            let found = pair_of(&Orpo::default(), &logps([chosen, rejected, 0.0, 0.0]));
            assert!(found.loss.is_finite() && found.d_chosen.is_finite() && found.d_rejected.is_finite());
        }
    }
}
