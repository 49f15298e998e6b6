//! Lion: Chen et al. 2023 (arXiv 2302.06675), algorithm 2, in the order of `bitsandbytes.optim.Lion` (`lion_32bit`).
//!
//! `θ ← θ·(1 − ηλ) − η·sign(β₁·m + (1 − β₁)·g)`, `m ← β₂·m + (1 − β₂)·g`, with the sign of 0 being 0.

use rayon::prelude::*;

use super::rates::Rates;
use super::rule::{CHUNK, OptimizerConfig, Rule};
use crate::trainable::store::Parts;

/// Lion, which keeps one moment.
pub(super) struct Lion {
    config: OptimizerConfig,
}

impl Lion {
    /// Creates the rule with the configured decay rates.
    pub(super) fn new(config: &OptimizerConfig) -> Self {
        Self { config: *config }
    }
}

impl Rule for Lion {
    fn moments(&self) -> &'static [&'static str] {
        &["exp_avg"]
    }

    fn update(&self, _step: u64, Parts { values, gradient, moments, entries }: Parts, rates: Rates) {
        let [exp_avg] = moments else { return };
        let OptimizerConfig { beta1, beta2, weight_decay, .. } = self.config;
        let (kept, added) = (beta1 as f32, (1.0 - beta1) as f32);
        let (kept_next, added_next) = (beta2 as f32, (1.0 - beta2) as f32);
        let exp_avg = exp_avg.f32s_mut();
        for (range, lr) in rates.ranges(entries, values.len()) {
            let (decay, minus_lr) = ((1.0 - lr * weight_decay) as f32, -lr as f32);
            values[range.clone()]
                .par_chunks_mut(CHUNK)
                .zip(gradient[range.clone()].par_chunks(CHUNK))
                .zip(exp_avg[range].par_chunks_mut(CHUNK))
                .for_each(|((values, gradient), exp_avg)| {
                    for ((p, &g), m) in values.iter_mut().zip(gradient).zip(exp_avg) {
                        *p = *p * decay + minus_lr * sign(*m * kept + added * g);
                        *m = *m * kept_next + added_next * g;
                    }
                });
        }
    }
}

/// −1, 0 or 1; `f32::signum` has no 0.
fn sign(x: f32) -> f32 {
    f32::from(i8::from(x > 0.0) - i8::from(x < 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainable::store::Moment;

    #[test]
    fn a_step_has_the_size_of_the_learning_rate() {
        let rule = Lion::new(&OptimizerConfig { weight_decay: 0.5, ..OptimizerConfig::default() });
        let (mut parameters, mut moments) = ([1.0f32, 1.0, 1.0], [Moment::zeros("exp_avg", 3)]);
        let parts = Parts {
            values: &mut parameters,
            gradient: &[1e-3, -7.0, 0.0],
            moments: &mut moments,
            entries: &[],
        };
        rule.update(1, parts, 0.1.into());
        // 1·(1 − 0.1·0.5) ∓ 0.1, and no step where the update is 0.
        for (got, expected) in parameters.iter().zip([0.85, 1.05, 0.95]) {
            assert!((got - expected).abs() < 1e-7, "{parameters:?}");
        }
        assert!((moments[0].values.f32s()[1] + 0.007).abs() < 1e-7);
    }
}
