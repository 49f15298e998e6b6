//! `torch.optim.RMSprop` with its defaults (alpha 0.99, eps 1e-8, no momentum, not centred): the DPO paper's optimizer.

use rayon::prelude::*;

use super::{CHUNK, OptimizerConfig, Rule};
use crate::model::engine::Update;

const ALPHA: f64 = 0.99;
const EPSILON: f64 = 1e-8;

/// RMSprop with its second moment, f32.
pub(super) struct RmsProp {
    weight_decay: f32,
    square_avg: Vec<f32>,
}

impl RmsProp {
    /// A zero moment of `parameters` numbers.
    pub(super) fn new(config: &OptimizerConfig, parameters: usize) -> Self {
        Self { weight_decay: config.weight_decay as f32, square_avg: vec![0.0; parameters] }
    }
}

impl Rule for RmsProp {
    fn update(&mut self, _step: u64, parameters: &mut [f32], gradients: &[f32], lr: f64) {
        let (weight_decay, minus_lr) = (self.weight_decay, -lr as f32);
        parameters
            .par_chunks_mut(CHUNK)
            .zip(gradients.par_chunks(CHUNK))
            .zip(self.square_avg.par_chunks_mut(CHUNK))
            .for_each(|((parameters, gradients), square_avg)| {
                for ((p, &g), v) in parameters.iter_mut().zip(gradients).zip(square_avg) {
                    let g = g + weight_decay * *p;
                    *v = *v * ALPHA as f32 + (1.0 - ALPHA) as f32 * g * g;
                    *p += minus_lr * g / (v.sqrt() + EPSILON as f32);
                }
            });
    }

    fn on_device(&self, _step: u64, lr: f64) -> Update {
        Update { kernel: "rmsprop", moments: 1, scalars: vec![self.weight_decay, -lr as f32] }
    }

    fn state(&self) -> Vec<(&'static str, &[f32])> {
        vec![("square_avg", &self.square_avg)]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, &mut [f32])> {
        vec![("square_avg", &mut self.square_avg)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::optimizer::OptimizerKind;

    #[test]
    fn first_step_is_ten_learning_rates_whatever_the_gradient() {
        let config = OptimizerConfig {
            kind: OptimizerKind::RmsProp,
            beta1: 0.0,
            beta2: 0.0,
            epsilon: 1.0,
            weight_decay: 0.0,
        };
        let mut rule = RmsProp::new(&config, 2);
        let mut parameters = [0.0f32, 0.0];
        // g / √(0.01·g²) = 10·sign(g); AdamW's epsilon plays no part.
        rule.update(1, &mut parameters, &[4.0, -0.5], 0.01);
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
        };
        let mut rule = RmsProp::new(&config, 1);
        rule.update(1, &mut [2.0], &[3.0], 0.01);
        // (3 + 0.5 · 2)² · 0.01
        assert!((rule.square_avg[0] - 0.16).abs() < 1e-6);
    }
}
