//! Every matrix of every family is trained with the gradient of the loss, compared with finite differences of the whole
//! model.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::ops::Range;

use common::{Model, examples, fixture, load_with, models, pack, random_lora};
use dpo_lora::data::{Kind, PackedBatch};
use dpo_lora::model::decoder::Training;
use dpo_lora::model::pass::Pass;
use dpo_lora::objective::{FDivergenceType, Objective, Sigmoid, Weighed};
use dpo_lora::weights::DType;

/// A loss whose slopes are far from saturated.
const LOSS: Sigmoid = Sigmoid {
    beta: 0.3,
    label_smoothing: 0.1,
    f_divergence_type: FDivergenceType::ReverseKl,
    f_alpha_divergence_coef: 0.5,
};

struct Case {
    decoder: Model,
    batch: PackedBatch,
    reference: Vec<f64>,
}

impl Case {
    fn new(model: &str) -> Self {
        // Clipped queries have kinks that a difference may cross; `ops::clip` has its own test.
        let mut decoder = load_with(&fixture("models").join(model), DType::F32, |spec| {
            spec.layers.iter_mut().for_each(|layer| layer.attention.clip = layer.attention.clip.map(|_| 1e3));
        });
        decoder.train(random_lora(&decoder, 11));
        // Different lengths, one beyond every sliding window; the label of the last pair is a fraction.
        let pairs = examples("pairs.jsonl", &fixture("models").join(model));
        let mut pairs = [0, 2, 6].map(|i: usize| pairs[i].clone());
        pairs[2].kind = Kind::pair(0.4);
        let batch = pack(&pairs);
        let reference = decoder.logps(&batch, Pass::Reference).unwrap();
        Self { decoder, batch, reference }
    }

    fn weigh(&self, logps: &[f64]) -> Weighed {
        let scored = self.batch.scored_completions(logps, Some(&self.reference)).unwrap();
        Objective::new(LOSS).weigh(&scored).unwrap()
    }

    fn loss(&self) -> f64 {
        let logps = self.decoder.logps(&self.batch, Pass::Policy).unwrap();
        self.weigh(&logps).losses.iter().sum()
    }

    fn gradient(&self) -> Vec<f32> {
        let (logps, tape) = self.decoder.forward(&self.batch, Training::default()).unwrap();
        let weights = self.weigh(&logps).d_logps;
        self.decoder.gradient(tape, &self.batch, &weights)
    }

    fn values(&self) -> &[f32] {
        self.decoder.trained().values()
    }

    /// Returns the loss with some parameters moved.
    fn moved(&mut self, by: &[(usize, f32)]) -> f64 {
        let before = self.values().to_vec();
        let adapters = |case: &mut Self, change: &dyn Fn(&mut [f32])| {
            case.decoder.policy.trained.update(|values| change(values));
        };
        adapters(self, &|values| by.iter().for_each(|(i, h)| values[*i] += h));
        let loss = self.loss();
        adapters(self, &|values| values.copy_from_slice(&before));
        loss
    }

    /// Returns (4·D(h) − D(2h))/3 with central differences D; the error is of order h⁴.
    fn slope(&mut self, along: &[(usize, f32)], step: f32) -> f64 {
        let mut central = |h: f32| {
            let by = |h: f32| along.iter().map(|(i, d)| (*i, d * h)).collect::<Vec<_>>();
            (self.moved(&by(h)) - self.moved(&by(-h))) / (2.0 * f64::from(h))
        };
        (4.0 * central(step) - central(2.0 * step)) / 3.0
    }
}

/// Returns the two entries of a matrix with the largest gradients.
fn largest(gradient: &[f32], matrix: &Range<usize>) -> Vec<usize> {
    let mut order: Vec<usize> = matrix.clone().collect();
    order.sort_by(|a, b| gradient[*b].abs().total_cmp(&gradient[*a].abs()));
    order.truncate(2);
    order
}

#[test]
fn every_matrix_of_every_family_agrees_with_finite_differences() {
    // These two are the llama fixture in other files.
    for name in models().into_iter().filter(|name| !matches!(name.as_str(), "llama-f16" | "llama-sharded")) {
        let mut case = Case::new(&name);
        let gradient = case.gradient();
        let loras = case.decoder.trained().copy();
        let loras = loras.loras("a test").unwrap();
        assert_eq!(loras.len(), case.decoder.spec().linears().count());
        for lora in loras {
            for (side, matrix) in [("A", lora.a()), ("B", lora.b())] {
                let what = format!("{name} {} {side}", lora.module);
                let zeros = gradient[matrix.clone()].iter().filter(|g| **g == 0.0).count();
                assert!(zeros * 10 <= matrix.len(), "{what}: {zeros} of {} gradients are 0", matrix.len());
                // Along the gradient's signs all entries add up; the largest entries are tested singly to find what the
                // sum hides.
                let norm: f64 = gradient[matrix.clone()].iter().map(|g| f64::from(g.abs())).sum();
                let uphill: Vec<_> = matrix.clone().map(|i| (i, gradient[i].signum())).collect();
                // The step is wider for a small gradient, so that the loss's own rounding, 1e-6 of it, is negligible.
                let wide = (0.02 / norm as f32).clamp(1e-2, 4e-2);
                let step = wide / (matrix.len() as f32).sqrt();
                let found = case.slope(&uphill, step);
                assert!((found - norm).abs() <= 2e-3 * norm, "{what}: {found} against {norm}");
                for i in largest(&gradient, &matrix) {
                    let want = f64::from(gradient[i]);
                    let found = case.slope(&[(i, 1.0)], 2e-2);
                    assert!(
                        (found - want).abs() <= 2e-3 * want.abs() + 1e-4,
                        "{what} {i}: {found} against {want}"
                    );
                }
            }
        }
    }
}
