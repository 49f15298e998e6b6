//! A reward model: the Bradley–Terry loss (Bradley and Terry 1952) of the rewards that a model with a scalar head reads at
//! the end of each answer (Ouyang et al. 2022, arXiv 2203.02155, equation 1).
//!
//! With Δ = r(chosen) − r(rejected) − m, the margin m of the pair (Touvron et al. 2023, arXiv 2307.09288, equation 2; 0 if
//! the record has none) and c = `center_rewards_coefficient` (Eisenstein et al. 2023, arXiv 2312.09244, equation 2):
//!
//! `L = −log σ(Δ) + c·(r(chosen) + r(rejected))²`, `∂L/∂r(chosen) = −σ(−Δ) + 2c·(r(chosen) + r(rejected))`
//!
//! This is TRL 1.16's `RewardTrainer`, with its key and default. A label y, which TRL does not have, gives
//! −y·log σ(Δ) − (1−y)·log σ(−Δ). Here [`Scored::logp`] is the reward; there is no log-prob and no reference.

use serde::{Deserialize, Serialize};

use super::pairs::{self, PairLoss};
use super::scored::{Pair, Scored};
use super::terms::{self, Batch, Needs, Terms, Weighed};
use crate::error::{Problems, Result};

/// The Bradley–Terry loss of a reward model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reward {
    /// c: the weight of (r(chosen) + r(rejected))², which keeps rewards around 0; null: no such term. The paper
    /// recommends 0.01.
    pub center_rewards_coefficient: Option<f64>,
}

impl Terms for Reward {
    fn needs(&self) -> Needs {
        Needs { reference: false, rewards: true, ..Needs::PAIRS }
    }

    fn check(&self, problems: &mut Problems) {
        terms::check_weight(
            "center_rewards_coefficient",
            self.center_rewards_coefficient.unwrap_or(0.0),
            problems,
        );
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        pairs::add_pairs(batch, weight, onto, |pair| self.pair(pair))
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        Some(completion.logp)
    }
}

impl Reward {
    fn pair(&self, Pair { chosen, rejected }: &Pair) -> PairLoss {
        let delta = chosen.logp - rejected.logp - chosen.margin;
        let (loss, slope) = pairs::cross_entropy(delta, chosen.label);
        let (coefficient, sum) =
            (self.center_rewards_coefficient.unwrap_or(0.0), chosen.logp + rejected.logp);
        let centring = 2.0 * coefficient * sum;
        PairLoss {
            loss: loss + coefficient * sum * sum,
            d_chosen: slope + centring,
            d_rejected: centring - slope,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{logps, pair_of};
    use super::*;

    fn rewards(chosen: f64, rejected: f64, margin: f64, label: f64) -> [Scored; 2] {
        logps([chosen, rejected, 0.0, 0.0]).map(|scored| Scored { margin, label, ref_logp: None, ..scored })
    }

    /// Values of `torch.nn.functional.logsigmoid` as TRL combines them.
    #[test]
    fn the_loss_is_that_of_trl() {
        let plain = pair_of(&Reward::default(), &rewards(0.75, -0.5, 0.0, 1.0));
        // −log σ(1.25)
        assert!((plain.loss - 0.251_929_081_345_372_9).abs() < 1e-12, "{}", plain.loss);
        let centred = Reward { center_rewards_coefficient: Some(0.01) };
        let found = pair_of(&centred, &rewards(0.75, -0.5, 2.0, 1.0));
        // −log σ(−0.75) + 0.01·0.25²
        assert!((found.loss - (1.136_871_006_114_9 + 0.000_625)).abs() < 1e-10, "{}", found.loss);
        let slope = 1.0 / (1.0 + (-0.75f64).exp());
        assert!((found.d_chosen - (0.005 - slope)).abs() < 1e-12);
        assert!((found.d_rejected - (0.005 + slope)).abs() < 1e-12);
    }

    #[test]
    fn a_label_weighs_both_orders() {
        let found = pair_of(&Reward::default(), &rewards(0.75, -0.5, 0.0, 0.25));
        let of = |x: f64| (-x).exp().ln_1p();
        assert!((found.loss - (0.25 * of(1.25) + 0.75 * of(-1.25))).abs() < 1e-12);
        let mut problems = Problems::default();
        Reward { center_rewards_coefficient: Some(-0.1) }.check(&mut problems);
        assert!(!problems.is_empty());
    }
}
