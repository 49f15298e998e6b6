//! Unlikelihood: a baseline of Rafailov et al. 2023 (arXiv 2305.18290, section 6 and appendix C), after Welleck et al. 2019
//! (arXiv 1908.04319).
//!
//! It maximises the log-prob of the chosen completion and minimises that of the rejected one, without a reference. With
//! α = `unlikelihood_alpha` in [0, 1]:
//!
//! `L = −log π_θ(chosen) + α·log π_θ(rejected)`, `∂L/∂ log π_θ(chosen) = −1`, `∂L/∂ log π_θ(rejected) = α`
//!
//! Log-probs are sums over the completion, as in the paper's other losses. α = 0 is fine-tuning on the chosen completions.
//! With α > 0 nothing bounds the loss from below: the paper reports meaningless texts on summarization and dialogue, so
//! train few steps. TRL has no such loss. A label y gives y·L + (1−y)·L with the completions swapped.

use serde::{Deserialize, Serialize};

use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{Batch, Needs, Terms, Weighed};
use crate::error::{Problems, Result};

/// The log-prob of the rejected completion minus that of the chosen one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Unlikelihood {
    /// α: the weight of the rejected completion, in [0, 1].
    pub unlikelihood_alpha: f64,
}

impl Default for Unlikelihood {
    fn default() -> Self {
        Self { unlikelihood_alpha: 1.0 }
    }
}

impl Terms for Unlikelihood {
    fn needs(&self) -> Needs {
        Needs { reference: false, ..Needs::PAIRS }
    }

    fn check(&self, problems: &mut Problems) {
        let alpha = self.unlikelihood_alpha;
        problems.require((0.0..=1.0).contains(&alpha), || {
            format!("objective.unlikelihood_alpha is {alpha}; it must be in [0, 1]")
        });
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        pairs::add_pairs(batch, weight, onto, |pair| self.pair(pair))
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        Some(completion.logp)
    }
}

impl Unlikelihood {
    fn pair(&self, Pair { chosen, rejected }: &Pair) -> PairLoss {
        let (y, alpha) = (chosen.label, self.unlikelihood_alpha);
        // y·(−c + α·r) + (1−y)·(−r + α·c)
        let (d_chosen, d_rejected) = (alpha * (1.0 - y) - y, alpha * y - (1.0 - y));
        PairLoss { loss: d_chosen * chosen.logp + d_rejected * rejected.logp, d_chosen, d_rejected }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{logps, pair_of};
    use super::*;

    #[test]
    fn it_is_the_formula_of_the_paper() {
        for alpha in [0.0, 0.25, 1.0] {
            let loss = Unlikelihood { unlikelihood_alpha: alpha };
            let found = pair_of(&loss, &logps([-41.5, -37.25, 0.0, 0.0]));
            assert_eq!((found.loss, found.d_chosen, found.d_rejected), (41.5 - alpha * 37.25, -1.0, alpha));
        }
        // A label of ¼ is a quarter of it, and three quarters with the completions swapped.
        let quarter = logps([-41.5, -37.25, 0.0, 0.0]).map(|scored| Scored { label: 0.25, ..scored });
        let found = pair_of(&Unlikelihood { unlikelihood_alpha: 0.5 }, &quarter);
        assert!((found.loss - (0.25 * (41.5 - 18.625) + 0.75 * (37.25 - 20.75))).abs() < 1e-12);
    }

    #[test]
    fn a_weight_beyond_one_is_refused() {
        for alpha in [-0.1, 1.1, f64::NAN] {
            let mut problems = Problems::default();
            Unlikelihood { unlikelihood_alpha: alpha }.check(&mut problems);
            assert!(!problems.is_empty(), "{alpha}");
        }
    }
}
