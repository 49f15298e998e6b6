//! `torch.optim.RMSprop` with its defaults (alpha 0.99, eps 1e-8, no momentum, not centred), the DPO paper's optimizer.

use rayon::prelude::*;

use super::rates::Rates;
use super::rule::{CHUNK, OptimizerConfig, Rule};
use crate::model::engine::Update;
use crate::trainable::store::Parts;

const ALPHA: f64 = 0.99;
const EPSILON: f64 = 1e-8;

/// RMSprop, which keeps the second moment.
pub(super) struct RmsProp {
    weight_decay: f32,
}

impl RmsProp {
    /// Creates the rule with the configured weight decay.
    pub(super) fn new(config: &OptimizerConfig) -> Self {
        Self { weight_decay: config.weight_decay as f32 }
    }
}

impl Rule for RmsProp {
    fn moments(&self) -> &'static [&'static str] {
        &["square_avg"]
    }

    fn update(&self, _step: u64, Parts { values, gradient, moments, entries }: Parts, rates: Rates) {
        let [square_avg] = moments else { return };
        let square_avg = square_avg.f32s_mut();
        for (range, lr) in rates.ranges(entries, values.len()) {
            let (weight_decay, minus_lr) = (self.weight_decay, -lr as f32);
            values[range.clone()]
                .par_chunks_mut(CHUNK)
                .zip(gradient[range.clone()].par_chunks(CHUNK))
                .zip(square_avg[range].par_chunks_mut(CHUNK))
                .for_each(|((values, gradient), square_avg)| {
                    for ((p, &g), v) in values.iter_mut().zip(gradient).zip(square_avg) {
                        let g = g + weight_decay * *p;
                        *v = *v * ALPHA as f32 + (1.0 - ALPHA) as f32 * g * g;
                        *p += minus_lr * g / (v.sqrt() + EPSILON as f32);
                    }
                });
        }
    }

    fn on_device(&self, _step: u64, lr: f64) -> Option<Update> {
        Some(Update { kernel: "rmsprop", moments: 1, scalars: vec![self.weight_decay, -lr as f32] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::optimizer::OptimizerKind;
    use crate::trainable::store::{Moment, Numbers};

    #[test]
    fn first_step_is_ten_learning_rates_whatever_the_gradient() {
        let config = OptimizerConfig {
            kind: OptimizerKind::RmsProp,
            beta1: 0.0,
            beta2: 0.0,
            epsilon: 1.0,
            weight_decay: 0.0,
            ..OptimizerConfig::default()
        };
        let mut moments = [Moment { name: "square_avg", values: Numbers::F32(vec![0.0; 2]) }];
        let mut parameters = [0.0f32, 0.0];
        // g / √(0.01·g²) = 10·sign(g); AdamW's epsilon plays no part.
        let parts =
            Parts { values: &mut parameters, gradient: &[4.0, -0.5], moments: &mut moments, entries: &[] };
        RmsProp::new(&config).update(1, parts, 0.01.into());
        assert!((parameters[0] + 0.1).abs() < 1e-6 && (parameters[1] - 0.1).abs() < 1e-6, "{parameters:?}");
    }

    #[test]
    fn weight_decay_is_added_to_the_gradient() {
        let config = OptimizerConfig {
            kind: OptimizerKind::RmsProp,
            beta1: 0.0,
            beta2: 0.0,
            epsilon: 1.0,
            weight_decay: 0.5,
            ..OptimizerConfig::default()
        };
        let mut moments = [Moment { name: "square_avg", values: Numbers::F32(vec![0.0]) }];
        let parts = Parts { values: &mut [2.0], gradient: &[3.0], moments: &mut moments, entries: &[] };
        RmsProp::new(&config).update(1, parts, 0.01.into());
        // (3 + 0.5 · 2)² · 0.01
        assert!((moments[0].values.f32s()[0] - 0.16).abs() < 1e-6);
    }
}
