//! Schedule-free AdamW: Defazio et al. 2024 (arXiv 2405.15682), as `schedulefree.AdamWScheduleFree` 1.4 computes it.
//!
//! The gradient is taken at y, a mean of the iterate z and of its running average x, y = (1 − β₁)·z + β₁·x. With
//! u = g/(√v̂ + ε) + λ·y and the weight c of this step in the average:
//!
//! `y ← (1 − c)·y + c·z + η·(β₁·(1 − c) − 1)·u`, `z ← z − η·u`, `x = y + (1 − 1/β₁)·(z − y)`
//!
//! c is η_max² over the sum of η_max² of all steps so far. The values of the store are y during a training pass and x
//! otherwise, so that evaluation, checkpoints and the saved adapter use the average. y itself is kept beside z, because
//! it cannot be recomputed from x and z to the last bit. Like the package, the rule multiplies the learning rate by its
//! own linear warm-up over `warmup_steps`; the schedule should be constant.

use rayon::prelude::*;

use super::adamw::lerp;
use super::rates::Rates;
use super::rule::{CHUNK, OptimizerConfig, Rule};
use crate::trainable::Store;
use crate::trainable::store::{Moment, Numbers, Parts};

const NAMES: &[&str] = &["y", "z", "exp_avg_sq", "weight_sum_and_lr_max"];

/// Schedule-free AdamW, which keeps y, z, the second moment and two sums.
pub(super) struct ScheduleFree {
    config: OptimizerConfig,
}

/// The scalars of one step.
#[derive(Clone, Copy)]
struct Scalars {
    beta2: f32,
    one_minus_beta2: f32,
    bias_correction2: f32,
    epsilon: f32,
    weight_decay: f32,
    average: f32,
    y_step: f32,
    minus_lr: f32,
    to_x: f32,
}

impl ScheduleFree {
    /// Creates the rule with the configured decay rates.
    pub(super) fn new(config: &OptimizerConfig) -> Self {
        Self { config: *config }
    }

    /// The factor of the rule's own warm-up.
    fn warm(&self, step: u64) -> f64 {
        let warmup_steps = self.config.warmup_steps;
        if step <= warmup_steps { step as f64 / warmup_steps as f64 } else { 1.0 }
    }

    /// Updates the sums (Σ η_max², η_max) and returns the weight of this step in the average. A constant factor of η
    /// does not change it.
    fn average(&self, step: u64, lr: f64, sums: &mut [f64]) -> f64 {
        let lr = lr * self.warm(step);
        let mut average = 0.0;
        if let [weight_sum, lr_max] = sums {
            *lr_max = lr_max.max(lr);
            let weight = *lr_max * *lr_max;
            *weight_sum += weight;
            average = if *weight_sum > 0.0 { weight / *weight_sum } else { 0.0 };
        }
        average
    }

    /// Returns the scalars of a step, computed in f64 and rounded once.
    fn scalars(&self, step: u64, lr: f64, average: f64) -> Scalars {
        let OptimizerConfig { beta1, beta2, epsilon, weight_decay, .. } = self.config;
        let lr = lr * self.warm(step);
        Scalars {
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            bias_correction2: (1.0 - beta2.powf(step as f64)) as f32,
            epsilon: epsilon as f32,
            weight_decay: weight_decay as f32,
            average: average as f32,
            y_step: (lr * (beta1 * (1.0 - average) - 1.0)) as f32,
            minus_lr: -lr as f32,
            to_x: self.to_x(),
        }
    }

    /// The weight with which z leads from y to x.
    fn to_x(&self) -> f32 {
        (1.0 - 1.0 / self.config.beta1) as f32
    }
}

impl Rule for ScheduleFree {
    fn moments(&self) -> &'static [&'static str] {
        NAMES
    }

    fn start(&self, store: &Store) -> Vec<Moment> {
        let copy = |name| Moment { name, values: Numbers::F32(store.values().to_vec()) };
        vec![
            copy(NAMES[0]),
            copy(NAMES[1]),
            Moment::zeros(NAMES[2], store.values().len()),
            Moment { name: NAMES[3], values: Numbers::F64(vec![0.0; 2]) },
        ]
    }

    fn update(&self, step: u64, Parts { values, gradient, moments, entries }: Parts, rates: Rates) {
        let [y, z, exp_avg_sq, sums] = moments else { return };
        let (y, z, exp_avg_sq) = (y.f32s_mut(), z.f32s_mut(), exp_avg_sq.f32s_mut());
        let average = self.average(step, rates.base(), sums.f64s_mut());
        for (range, lr) in rates.ranges(entries, values.len()) {
            let scalars = self.scalars(step, lr, average);
            values[range.clone()]
                .par_chunks_mut(CHUNK)
                .zip(gradient[range.clone()].par_chunks(CHUNK))
                .zip(y[range.clone()].par_chunks_mut(CHUNK))
                .zip(z[range.clone()].par_chunks_mut(CHUNK))
                .zip(exp_avg_sq[range].par_chunks_mut(CHUNK))
                .for_each(|((((x, gradient), y), z), exp_avg_sq)| {
                    update(scalars, gradient, [x, y, z, exp_avg_sq]);
                });
        }
    }

    fn averages(&self) -> bool {
        true
    }

    fn to_gradient_point(&self, Parts { values, moments, .. }: Parts) {
        if let [y, ..] = moments {
            values.copy_from_slice(y.values.f32s());
        }
    }

    fn to_average(&self, Parts { values, moments, .. }: Parts) {
        let [y, z, ..] = moments else { return };
        for ((x, y), z) in values.iter_mut().zip(y.values.f32s()).zip(z.values.f32s()) {
            *x = lerp(*y, *z, self.to_x());
        }
    }
}

fn update(s: Scalars, gradient: &[f32], [x, y, z, exp_avg_sq]: [&mut [f32]; 4]) {
    for ((((x, &g), y), z), v) in x.iter_mut().zip(gradient).zip(y).zip(z).zip(exp_avg_sq) {
        *v = *v * s.beta2 + s.one_minus_beta2 * g * g;
        let denominator = (*v / s.bias_correction2).sqrt() + s.epsilon;
        let u = g / denominator + s.weight_decay * *y;
        *y = lerp(*y, *z, s.average) + s.y_step * u;
        *z += s.minus_lr * u;
        *x = lerp(*y, *z, s.to_x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_holds_the_average_of_the_iterates() {
        let rule = ScheduleFree::new(&OptimizerConfig::default());
        let mut store = Store::default();
        store.add("a".into(), vec![1]);
        store.update(|values| values[0] = 2.0);
        let start = rule.start(&store);
        store.set_moments(start);
        let mut iterates = Vec::new();
        for step in 1..=5 {
            store.clear_gradient();
            store.update_gradient(|gradient| gradient[0] = 1.0 + step as f32);
            store.step(|parts| rule.update(step, parts, 0.1.into()));
            iterates.push(f64::from(store.moments()[1].values.f32s()[0]));
            // At a constant learning rate every iterate has the same weight.
            let mean = iterates.iter().sum::<f64>() / iterates.len() as f64;
            assert!(
                (f64::from(store.values()[0]) - mean).abs() < 1e-6,
                "{step}: {:?} {mean}",
                store.values()
            );
            let x = store.values()[0];
            store.step(|parts| rule.to_gradient_point(parts));
            let y = 0.9 * mean + 0.1 * iterates[iterates.len() - 1];
            assert!((f64::from(store.values()[0]) - y).abs() < 1e-6, "{step}");
            store.step(|parts| rule.to_average(parts));
            assert_eq!(store.values()[0], x);
        }
    }
}
