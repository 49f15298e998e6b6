//! Efficient exact optimization: Ji et al. 2024 (arXiv 2402.00856), equation 16, for two completions.
//!
//! The reverse divergence KL(q ‖ p) between the policy's preference q = [σ(x), σ(−x)] and the labels' p = [1−ε, ε],
//! with x = β·(s_chosen − s_rejected) and s the score of a completion (`divergence.rs`):
//!
//! `L = σ(x)·log(σ(x)/(1−ε)) + σ(−x)·log(σ(−x)/ε)`, `∂L/∂x = σ(x)·σ(−x)·(x − log((1−ε)/ε))`
//!
//! The loss is infinite for ε = 0, so `label_smoothing` must be set, as in TRL; the paper uses 1e-3. A soft label y
//! gives y·L(x) + (1−y)·L(−x).

use serde::{Deserialize, Serialize};

use super::divergence::{Divergence, FDivergenceType};
use super::numbers::{sigmoid, sigmoid_slope, softplus};
use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Terms, Weighed};
use crate::error::{Problems, Result};

/// KL divergence of the policy's preference from that of the labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExoPair {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
    /// ε: the assumed share of flipped labels, in (0, 0.5). There is no default; the paper uses 1e-3.
    pub label_smoothing: f64,
    /// The divergence that regularizes the policy towards the reference.
    pub f_divergence_type: FDivergenceType,
    /// α of `alpha_divergence`.
    pub f_alpha_divergence_coef: f64,
}

impl Default for ExoPair {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 0.0,
            f_divergence_type: FDivergenceType::ReverseKl,
            f_alpha_divergence_coef: Divergence::ALPHA,
        }
    }
}

impl Terms for ExoPair {
    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
        terms::check_smoothing(self.label_smoothing, problems);
        problems.require(self.label_smoothing != 0.0, || {
            "objective.label_smoothing is 0, where exo_pair is infinite; set it, to 1e-3 as in its paper"
                .into()
        });
        self.divergence().check(problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        pairs::add_pairs(batch, weight, onto, |pair| self.pair(pair))
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        completion.log_ratio().map(|ratio| self.beta * ratio)
    }
}

impl ExoPair {
    fn divergence(&self) -> Divergence {
        Divergence { kind: self.f_divergence_type, alpha: self.f_alpha_divergence_coef }
    }

    fn pair(&self, pair: &Pair) -> PairLoss {
        pairs::of_margin(pair, self.divergence(), |delta| {
            let x = self.beta * delta;
            let (log_kept, log_flipped) = ((-self.label_smoothing).ln_1p(), self.label_smoothing.ln());
            // log σ(x) = −softplus(−x)
            let loss = sigmoid(x) * (-softplus(-x) - log_kept) + sigmoid(-x) * (-softplus(x) - log_flipped);
            (loss, self.beta * sigmoid_slope(x) * (x - (log_kept - log_flipped)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{logps, pair_of};
    use super::*;

    #[test]
    fn the_optimum_is_the_labels_distribution() {
        let loss = ExoPair { beta: 1.0, label_smoothing: 0.2, ..ExoPair::default() };
        // x = log(0.8/0.2): q is p.
        let found = pair_of(&loss, &logps([4f64.ln(), 0.0, 0.0, 0.0]));
        assert!(found.loss.abs() < 1e-15 && found.d_chosen.abs() < 1e-15, "{found:?}");
        // x = 0: KL([½, ½] ‖ [0.8, 0.2]) = ½·log(0.25/0.16)
        let start = pair_of(&loss, &logps([0.0; 4]));
        assert!((start.loss - 0.5 * (0.25f64 / 0.16).ln()).abs() < 1e-15);
    }

    #[test]
    fn smoothing_must_be_set() {
        let mut problems = Problems::default();
        ExoPair::default().check(&mut problems);
        assert!(problems.finish().unwrap_err().to_string().contains("1e-3"));
    }
}
