//! `torch.optim.AdamW` (Loshchilov & Hutter 2017, arXiv 1711.05101, algorithm 2), with decoupled weight decay and bias
//! correction.

use rayon::prelude::*;

use super::rates::Rates;
use super::rule::{CHUNK, OptimizerConfig, Rule};
use crate::model::engine::Update;
use crate::trainable::store::Parts;

/// AdamW, which keeps both moments.
pub(super) struct AdamW {
    config: OptimizerConfig,
}

impl AdamW {
    /// Creates the rule with the configured decay rates.
    pub(super) fn new(config: &OptimizerConfig) -> Self {
        Self { config: *config }
    }
}

/// The scalars of one step.
#[derive(Clone, Copy)]
struct Scalars {
    decay: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    epsilon: f32,
    minus_step_size: f32,
    bias_correction2_sqrt: f32,
}

impl Scalars {
    /// Computes the scalars in f64, as `torch.optim.adam._single_tensor_adam` does, and rounds them once.
    fn new(config: &OptimizerConfig, step: u64, lr: f64) -> Self {
        let power = |beta: f64| 1.0 - beta.powf(step as f64);
        Self {
            decay: (1.0 - lr * config.weight_decay) as f32,
            one_minus_beta1: (1.0 - config.beta1) as f32,
            beta2: config.beta2 as f32,
            one_minus_beta2: (1.0 - config.beta2) as f32,
            epsilon: config.epsilon as f32,
            minus_step_size: -(lr / power(config.beta1)) as f32,
            bias_correction2_sqrt: power(config.beta2).sqrt() as f32,
        }
    }
}

impl Rule for AdamW {
    fn moments(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }

    fn update(&self, step: u64, Parts { values, gradient, moments, entries }: Parts, rates: Rates) {
        let [exp_avg, exp_avg_sq] = moments else { return };
        let (exp_avg, exp_avg_sq) = (exp_avg.f32s_mut(), exp_avg_sq.f32s_mut());
        for (range, lr) in rates.ranges(entries, values.len()) {
            let scalars = Scalars::new(&self.config, step, lr);
            values[range.clone()]
                .par_chunks_mut(CHUNK)
                .zip(gradient[range.clone()].par_chunks(CHUNK))
                .zip(exp_avg[range.clone()].par_chunks_mut(CHUNK))
                .zip(exp_avg_sq[range].par_chunks_mut(CHUNK))
                .for_each(|(((parameters, gradients), exp_avg), exp_avg_sq)| {
                    update(scalars, parameters, gradients, exp_avg, exp_avg_sq);
                });
        }
    }

    fn on_device(&self, step: u64, lr: f64) -> Option<Update> {
        let s = Scalars::new(&self.config, step, lr);
        let scalars = vec![
            s.decay,
            s.one_minus_beta1,
            s.beta2,
            s.one_minus_beta2,
            s.epsilon,
            s.minus_step_size,
            s.bias_correction2_sqrt,
        ];
        Some(Update { kernel: "adamw", moments: 2, scalars })
    }
}

/// Makes one update of some of the parameters.
pub(super) fn step(
    (config, step, lr): (&OptimizerConfig, u64, f64),
    parameters: &mut [f32],
    gradients: &[f32],
    exp_avg: &mut [f32],
    exp_avg_sq: &mut [f32],
) {
    update(Scalars::new(config, step, lr), parameters, gradients, exp_avg, exp_avg_sq);
}

fn update(
    s: Scalars,
    parameters: &mut [f32],
    gradients: &[f32],
    exp_avg: &mut [f32],
    exp_avg_sq: &mut [f32],
) {
    for (((p, &g), m), v) in parameters.iter_mut().zip(gradients).zip(exp_avg).zip(exp_avg_sq) {
        *p *= s.decay;
        *m = lerp(*m, g, s.one_minus_beta1);
        *v = *v * s.beta2 + s.one_minus_beta2 * g * g;
        let denominator = v.sqrt() / s.bias_correction2_sqrt + s.epsilon;
        *p += s.minus_step_size * *m / denominator;
    }
}

/// `torch.lerp`, which switches formulas at 0.5 so that both ends are exact.
pub(super) fn lerp(start: f32, end: f32, weight: f32) -> f32 {
    if weight < 0.5 { start + weight * (end - start) } else { end - (end - start) * (1.0 - weight) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::optimizer::OptimizerKind;
    use crate::trainable::store::{Moment, Numbers};

    fn zeros(parameters: usize) -> [Moment; 2] {
        ["exp_avg", "exp_avg_sq"].map(|name| Moment { name, values: Numbers::F32(vec![0.0; parameters]) })
    }

    #[test]
    fn first_steps_agree_with_the_paper_in_f64() {
        let config = OptimizerConfig {
            kind: OptimizerKind::AdamW,
            beta1: 0.8,
            beta2: 0.95,
            epsilon: 1e-3,
            weight_decay: 0.5,
            ..OptimizerConfig::default()
        };
        let (rule, mut moments) = (AdamW::new(&config), zeros(2));
        let mut parameters = [1.0f32, -2.0];
        let (mut theta, mut m, mut v) = ([1.0f64, -2.0], [0f64; 2], [0f64; 2]);
        for (step, gradients) in [[0.5f32, -0.25], [0.125, 3.0], [-1.0, 0.0]].into_iter().enumerate() {
            let parts =
                Parts { values: &mut parameters, gradient: &gradients, moments: &mut moments, entries: &[] };
            rule.update(step as u64 + 1, parts, 0.1.into());
            let t = step as i32 + 1;
            for i in 0..2 {
                let g = f64::from(gradients[i]);
                m[i] = 0.8 * m[i] + 0.2 * g;
                v[i] = 0.95 * v[i] + 0.05 * g * g;
                let (m_hat, v_hat) = (m[i] / (1.0 - 0.8f64.powi(t)), v[i] / (1.0 - 0.95f64.powi(t)));
                theta[i] = theta[i] * (1.0 - 0.1 * 0.5) - 0.1 * m_hat / (v_hat.sqrt() + 1e-3);
                assert!((f64::from(parameters[i]) - theta[i]).abs() < 1e-6, "{t} {i}");
            }
        }
    }

    #[test]
    fn a_learning_rate_of_zero_moves_only_the_moments() {
        let config = OptimizerConfig {
            kind: OptimizerKind::AdamW,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.5,
            ..OptimizerConfig::default()
        };
        let (rule, mut moments) = (AdamW::new(&config), zeros(1));
        let mut parameters = [1.5f32];
        let parts = Parts { values: &mut parameters, gradient: &[2.0], moments: &mut moments, entries: &[] };
        rule.update(1, parts, 0.0.into());
        assert_eq!(parameters, [1.5]);
        assert!((moments[0].values.f32s()[0] - 0.2).abs() < 1e-7);
    }
}
