//! `torch.optim.SGD` without momentum.

use rayon::prelude::*;

use super::rates::Rates;
use super::rule::{CHUNK, OptimizerConfig, Rule};
use crate::model::engine::Update;
use crate::trainable::store::Parts;

/// Plain gradient descent, which keeps no moments.
pub(super) struct Sgd {
    weight_decay: f32,
}

impl Sgd {
    /// Creates the rule with the configured weight decay.
    pub(super) fn new(config: &OptimizerConfig) -> Self {
        Self { weight_decay: config.weight_decay as f32 }
    }
}

impl Rule for Sgd {
    fn moments(&self) -> &'static [&'static str] {
        &[]
    }

    fn update(&self, _step: u64, Parts { values, gradient, entries, .. }: Parts, rates: Rates) {
        for (range, lr) in rates.ranges(entries, values.len()) {
            let (weight_decay, minus_lr) = (self.weight_decay, -lr as f32);
            let chunks = values[range.clone()].par_chunks_mut(CHUNK).zip(gradient[range].par_chunks(CHUNK));
            chunks.for_each(|(values, gradient)| {
                for (p, &g) in values.iter_mut().zip(gradient) {
                    *p += minus_lr * (g + weight_decay * *p);
                }
            });
        }
    }

    fn on_device(&self, _step: u64, lr: f64) -> Option<Update> {
        Some(Update { kernel: "sgd", moments: 0, scalars: vec![self.weight_decay, -lr as f32] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::optimizer::OptimizerKind;

    #[test]
    fn a_step_by_hand() {
        let config = OptimizerConfig {
            kind: OptimizerKind::Sgd,
            beta1: 0.0,
            beta2: 0.0,
            epsilon: 0.0,
            weight_decay: 0.5,
            ..OptimizerConfig::default()
        };
        let mut parameters = [2.0f32];
        // 2 − 0.25·(1 + 0.5·2) = 1.5
        let parts = Parts { values: &mut parameters, gradient: &[1.0], moments: &mut [], entries: &[] };
        Sgd::new(&config).update(1, parts, 0.25.into());
        assert_eq!(parameters, [1.5]);
    }
}
