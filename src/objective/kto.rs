//! Kahneman–Tversky optimization: Ethayarajh et al. 2024 (arXiv 2402.01306), equations 7 and 8.
//!
//! The loss of single completions that are desirable or not. With r = log π_θ − log π_ref and z the divergence estimate
//! of the micro-batch:
//!
//! `L = λ_D·(1 − σ(β(r − z)))` if desirable, `∂L/∂r = −λ_D·β·σ'(β(r − z))`
//! `L = λ_U·(1 − σ(β(z − r)))` if not, `∂L/∂r = λ_U·β·σ'(β(z − r))`
//!
//! z = max(0, mean of log π_θ − log π_ref over mismatched completions), without a gradient. A mismatched completion
//! pairs each prompt of the micro-batch with the completion of the previous record, and the first prompt with the last
//! completion. TRL pairs them once, in file order, and therefore cannot shuffle; here they are paired within the
//! sampled batch. If the last batch has a single record, it is paired with itself, as in TRL. λ_D is `desirable_weight`
//! and λ_U is `undesirable_weight`. The paper recommends λ_D·n_D : λ_U·n_U between 1 : 1 and 4 : 3.

use serde::{Deserialize, Serialize};

use super::judged;
use super::metrics::Figure;
use super::numbers::{sigmoid, sigmoid_slope};
use super::scored::{Role, Scored};
use super::terms::{self, Batch, Needs, Records, Terms, Weighed};
use crate::error::{Error, Problems, Result};

/// Compares each completion with the divergence of its batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kto {
    /// Strength of the regularization towards the reference, above 0.
    pub beta: f64,
    /// λ_D: weight of desirable completions.
    pub desirable_weight: f64,
    /// λ_U: weight of undesirable completions.
    pub undesirable_weight: f64,
}

impl Default for Kto {
    fn default() -> Self {
        Self { beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0 }
    }
}

impl Terms for Kto {
    fn needs(&self) -> Needs {
        Needs { mismatched: true, whole_batch: true, records: Records::Judged, ..Needs::PAIRS }
    }

    fn check(&self, problems: &mut Problems) {
        terms::check_beta(self.beta, problems);
        terms::check_weight("desirable_weight", self.desirable_weight, problems);
        terms::check_weight("undesirable_weight", self.undesirable_weight, problems);
    }

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        let divergence = divergence(batch)?;
        onto.figures.push((Figure::Kl, divergence, 1));
        judged::add(batch, weight, onto, |ratio, desirable| {
            let x = self.beta * (ratio - divergence);
            match desirable {
                true => (
                    self.desirable_weight * sigmoid(-x),
                    -self.desirable_weight * self.beta * sigmoid_slope(x),
                ),
                false => (
                    self.undesirable_weight * sigmoid(x),
                    self.undesirable_weight * self.beta * sigmoid_slope(x),
                ),
            }
        })
    }

    fn reward(&self, completion: &Scored) -> Option<f64> {
        completion.log_ratio().map(|ratio| self.beta * ratio)
    }
}

/// Returns z: the mean log-ratio of the mismatched completions, at least 0.
fn divergence(batch: &Batch) -> Result<f64> {
    let ratios: Vec<f64> =
        batch.iter().filter(|c| c.role == Role::Mismatched).filter_map(Scored::log_ratio).collect();
    if ratios.is_empty() {
        return Err(Error::Train("kto needs mismatched completions beside those of the batch".into()));
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    // `max` would hide a NaN mean.
    Ok(if mean < 0.0 { 0.0 } else { mean })
}

#[cfg(test)]
mod tests {
    use super::super::testing::judged;
    use super::*;

    #[test]
    fn the_divergence_shifts_rewards_and_never_lies_below_0() {
        let weighed = |estimates: [f64; 2]| {
            let batch = judged(&[(-3.0, true), (1.0, false)], &estimates);
            let mut found = Weighed::zeros(&batch);
            let loss = Kto { beta: 1.0, desirable_weight: 2.0, undesirable_weight: 0.5 };
            loss.add(&Batch::new(&batch), 1.0, &mut found).unwrap();
            found
        };
        let shifted = weighed([1.0, 3.0]);
        // z = 2: 2·σ(2 + 3) and 0.5·σ(1 − 2)
        assert!((shifted.losses[0] - 2.0 * sigmoid(5.0)).abs() < 1e-15);
        assert!((shifted.losses[1] - 0.5 * sigmoid(-1.0)).abs() < 1e-15);
        assert_eq!(shifted.d_logps[2..], [0.0, 0.0]);
        assert_eq!(weighed([-1.0, -3.0]).losses[1], 0.5 * sigmoid(1.0));
        let batch = judged(&[(1.0, true)], &[]);
        let alone = Kto::default().add(&Batch::new(&batch), 1.0, &mut Weighed::zeros(&batch));
        assert!(alone.unwrap_err().to_string().contains("mismatched"));
    }
}
