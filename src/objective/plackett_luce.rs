//! DPO on ranked lists: Rafailov et al. 2023 (arXiv 2305.18290), appendix A.3; the model of Plackett 1975 and
//! Luce 1959.
//!
//! With s_k = β·(log π_θ − log π_ref) of the completion at rank k, from the best to the worst of K:
//!
//! `L = −Σ_{k<K} (s_k − log Σ_{j≥k} e^(s_j))`, `∂L/∂s_j = Σ_{k≤min(j, K−1)} e^(s_j)/Σ_{i≥k} e^(s_i) − [j < K]`
//!
//! For two completions this equals `sigmoid`. TRL has no such loss. The sums are accumulated from the worst rank
//! upwards, each as log(e^(s_k) + e^(sum below)).

use serde::{Deserialize, Serialize};

use super::numbers::{sigmoid, softplus};
use super::scored::{Role, Scored};
use super::terms::{self, Batch, Needs, Records, Terms, Weighed, is_estimate};
use crate::error::{Error, Problems, Result};

/// The negative log-likelihood of a ranking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlackettLuce {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
}

impl Default for PlackettLuce {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Terms for PlackettLuce {
    fn needs(&self) -> Needs {
        Needs { records: Records::Ranked, ..Needs::PAIRS }
    }

    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        for (i, (first, group)) in batch.groups().enumerate().filter(|(_, (_, group))| !is_estimate(group)) {
            let ranked = group.iter().enumerate().all(|(place, c)| c.role == Role::Rank(place));
            if group.len() < 2 || !ranked {
                return Err(Error::Train(
                    "the objective takes lists of two or more ranked completions".into(),
                ));
            }
            let (loss, slopes) = self.list(group);
            onto.losses[i] += weight * loss;
            for (place, slope) in slopes.into_iter().enumerate() {
                onto.d_logps[first + place] += weight * self.beta * slope;
            }
        }
        Ok(())
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        completion.log_ratio().map(|ratio| self.beta * ratio)
    }
}

impl PlackettLuce {
    /// Returns the loss of a list and its slope with respect to each s.
    fn list(&self, group: &[Scored]) -> (f64, Vec<f64>) {
        // `Objective::weigh` has already checked that there is a reference.
        let s: Vec<f64> = group.iter().map(|c| self.beta * c.log_ratio().unwrap_or(f64::NAN)).collect();
        // below[k] = log Σ_{j>k} e^(s_j)
        let mut below = vec![f64::NEG_INFINITY; s.len()];
        for k in (0..s.len() - 1).rev() {
            below[k] = s[k + 1] + softplus(below[k + 1] - s[k + 1]);
        }
        let mut slopes = vec![0.0; s.len()];
        let mut loss = 0.0;
        for k in 0..s.len() - 1 {
            // log σ(s_k − below_k) is the log-probability that rank k wins against everything below it.
            let margin = s[k] - below[k];
            loss += softplus(-margin);
            let lost = sigmoid(-margin);
            slopes[k] -= lost;
            for j in k + 1..s.len() {
                slopes[j] += lost * (s[j] - below[k]).exp();
            }
        }
        (loss, slopes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sigmoid;
    use super::super::testing::{logps, pair_of, ranked};
    use super::*;

    fn weighed(logps: &[f64]) -> Weighed {
        let batch = ranked(logps);
        let mut found = Weighed::zeros(&batch);
        PlackettLuce { beta: 1.0 }.add(&Batch::new(&batch), 1.0, &mut found).unwrap();
        found
    }

    #[test]
    fn two_places_are_dpo() {
        let found = weighed(&[0.75, -0.5]);
        let dpo = pair_of(&Sigmoid { beta: 1.0, ..Sigmoid::default() }, &logps([0.75, -0.5, 0.0, 0.0]));
        assert!((found.losses[0] - dpo.loss).abs() < 1e-15);
        assert!(
            (found.d_logps[0] - dpo.d_chosen).abs() < 1e-15
                && (found.d_logps[1] - dpo.d_rejected).abs() < 1e-15
        );
    }

    #[test]
    fn equal_scores_give_the_number_of_orders() {
        // 4! orders, all equally likely
        assert!((weighed(&[2.0; 4]).losses[0] - 24f64.ln()).abs() < 1e-14);
    }

    #[test]
    fn agrees_with_the_formula_written_out() {
        let s = [0.5f64, -1.25, 2.0];
        let sum = |from: usize| s[from..].iter().map(|s| s.exp()).sum::<f64>();
        let expected = sum(0).ln() - s[0] + sum(1).ln() - s[1];
        let found = weighed(&s);
        assert!((found.losses[0] - expected).abs() < 1e-14);
        let last = s[2].exp() / sum(0) + s[2].exp() / sum(1);
        assert!((found.d_logps[2] - last).abs() < 1e-14);
    }
}
