//! DoRA: a LoRA whose sum with the frozen weight is split into magnitude and direction (Liu et al. 2024, arXiv 2402.09353,
//! eq. 5): `y = b + m∘(x·(W + s·B·A)ᵀ) / ‖W + s·B·A‖`, with a norm for each output.
//!
//! `m` starts as the norms of W's rows, so that nothing changes at first. As in PEFT, the norm counts as a constant in the
//! backward pass, and dropout acts on the whole path. The product is computed in [`crate::ops::lora_linear::decomposed`].

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::dropout::Dropout;
use super::kind::{Delta, Kept, Numbers};
use super::lora::Lora;
use super::store::Shape;
use crate::error::{Error, Result};
use crate::ops::Tensor;
use crate::ops::frozen_linear::Linear;
use crate::ops::lora_linear::decomposed::{self, Gain};
use crate::ops::lora_linear::{Backward, Forward, LowRank};

/// Suffix that PEFT appends to the module's path for the magnitude `m [out]`.
pub const MAGNITUDE: &str = "lora_magnitude_vector";

/// The DoRA of one adapted module.
#[derive(Clone, Debug, PartialEq)]
pub struct Dora {
    /// Its low-rank matrices. The magnitude follows them in the flat buffer.
    pub lora: Lora,
    /// Factor of all that it changes: 1, unless adapters are combined.
    pub weight: f64,
}

impl Dora {
    /// Adds a magnitude to low-rank matrices.
    pub fn new(lora: Lora) -> Self {
        Self { lora, weight: 1.0 }
    }

    /// The range of `m [out]` in the flat buffer of its set.
    pub fn magnitude(&self) -> Range<usize> {
        let start = self.lora.range().end;
        start..start + self.lora.outputs
    }

    pub(super) fn identity(&self) -> String {
        format!("dora {} {}", self.weight.to_bits(), self.lora.identity())
    }

    pub(super) fn tensors(&self) -> Vec<(&'static str, Shape)> {
        let mut tensors = self.lora.tensors();
        tensors.push((MAGNITUDE, vec![self.lora.outputs]));
        tensors
    }

    /// Initialises A and B as LoRA does, and m with the norms of the rows of `weight`.
    pub(super) fn initialise(&self, seed: u64, values: &mut [f32], weight: Option<&Linear>) -> Result<()> {
        self.lora.initialise(seed, values);
        let module = &self.lora.module;
        let weight = weight.ok_or_else(|| {
            Error::Adapter(format!(
                "{module}: DoRA starts with the norms of the base's weight, which was not given"
            ))
        })?;
        let norms = decomposed::norms(weight, self.lora.path(values))?;
        if let Some(output) = norms.iter().position(|norm| *norm == 0.0 || !norm.is_finite()) {
            return Err(Error::Adapter(format!(
                "{module}: row {output} of the base's weight has the norm {}, and DoRA divides by it; leave the module out with \
                 lora.exclude_modules, or set lora.use_dora: false",
                norms[output]
            )));
        }
        values[self.magnitude()].copy_from_slice(&norms);
        Ok(())
    }

    /// The norms of the rows of `W + s·B·A`, and `g`.
    fn gain(&self, numbers: Numbers, linear: &Linear) -> Result<(Arc<[f32]>, Vec<f32>)> {
        let path = self.lora.path(numbers.values);
        let norms = linear.norms(numbers.version, || decomposed::norms(linear, path))?;
        Ok((norms.clone(), self.factors(numbers.values, &norms)))
    }

    /// `g = m / norms`; a row of zeros stays one.
    fn factors(&self, values: &[f32], norms: &[f32]) -> Vec<f32> {
        let quotient = |(m, norm): (&f32, &f32)| if *norm == 0.0 { 0.0 } else { m / norm };
        values[self.magnitude()].iter().zip(norms).map(quotient).collect()
    }

    /// Runs the forward pass and keeps `z [T, r]` and `v [T, out]`.
    pub(super) fn forward<'a>(
        &self,
        numbers: Numbers<'a>,
        product: &mut Forward<'a>,
        dropout: Option<Dropout>,
    ) -> Result<Kept> {
        let dropped = dropout.map(|dropout| dropout.mask(product.input(), &self.lora.module)).transpose()?;
        let (_, factors) = self.gain(numbers, product.linear())?;
        let gain = Gain { factors: &factors, weight: self.weight as f32 };
        let masked = dropped.as_ref().map(|(masked, _)| masked);
        let (z, v) = product.decomposed(self.lora.path(numbers.values), gain, masked)?;
        Ok(Kept { hidden: vec![z, v], dropped })
    }

    pub(super) fn backward<'a>(
        &self,
        numbers: Numbers<'a>,
        product: &mut Backward<'a>,
        kept: &'a Kept,
        x: Option<&Tensor>,
        gradients: Option<&mut [f32]>,
    ) -> Result<()> {
        let missing = |what: &str| Error::Model(format!("{}: {what} was not kept", self.lora.module));
        let (norms, factors) = self.gain(numbers, product.linear())?;
        let gain = Gain { factors: &factors, weight: self.weight as f32 };
        let path: LowRank<'a> = self.lora.path(numbers.values);
        let dz = product.decomposed(path, gain, kept.dropped.as_ref().map(|(_, factors)| factors))?;
        let Some(gradients) = gradients else { return Ok(()) };
        let x = kept.dropped.as_ref().map(|(masked, _)| masked).or(x).ok_or_else(|| missing("its input"))?;
        let [z, v] = kept.hidden.as_slice() else { return Err(missing("its product")) };
        let (low_rank, mut of_m) = product.decomposed_gradients(path, gain, (x, z, v), &dz)?;
        of_m.iter_mut().zip(&*norms).for_each(|(g, norm)| *g = if *norm == 0.0 { 0.0 } else { *g / norm });
        let parts = [(low_rank.a, self.lora.a()), (low_rank.b, self.lora.b()), (of_m, self.magnitude())];
        for (part, range) in parts {
            gradients[range].iter_mut().zip(part).for_each(|(sum, g)| *sum += g);
        }
        Ok(())
    }

    /// The change of the weight: `w·((g − 1)∘W + g∘(s·B·A))`, row by row.
    pub(super) fn delta<'a>(&self, values: &'a [f32], weight: f64, linear: &Linear) -> Result<Delta<'a>> {
        let norms = decomposed::norms(linear, self.lora.path(values))?;
        let (factors, weight) = (self.factors(values, &norms), weight * self.weight);
        let Delta { a, b, rank, .. } = self.lora.delta(values, weight);
        let mut b = b.into_owned();
        for (row, g) in b.chunks_exact_mut(rank.max(1)).zip(&factors) {
            row.iter_mut().for_each(|b| *b *= g);
        }
        let rows = factors.iter().map(|g| (weight * (f64::from(*g) - 1.0)) as f32).collect();
        Ok(Delta { a, b: Cow::Owned(b), rank, rows: Some(rows) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::kind::Module;
    use super::super::{Adapters, Frozen, Policy};
    use super::*;
    use crate::ops::lora_linear::{Input, input_gradient};
    use crate::ops::testing::{assert_finite_differences, assert_same, noise, noise_of};
    use crate::random::Stream;
    use crate::weights::{DType, FrozenWeight};

    fn linear(transposed: bool) -> Linear {
        let shape = if transposed { [9, 20] } else { [20, 9] };
        let weight = FrozenWeight::from_f32(noise_of(180, 6), &shape).unwrap();
        Linear::new(weight, transposed, Some(noise_of(20, 7)))
    }

    fn drawn(seed: u64, rank: usize) -> Adapters {
        let module = Module { name: "m".into(), inputs: 9, outputs: 20 };
        let mut set = Adapters::zeros([Dora::new(Lora::new(module, rank, 5.0, 1.7))]).unwrap();
        set.update(|values| values.copy_from_slice(&noise_of(values.len(), seed)));
        set
    }

    /// A trained DoRA beside a frozen one, which also scales the outputs.
    fn policy() -> Policy {
        let frozen = Frozen { adapters: drawn(4, 2), reference_only: false };
        Policy { frozen: vec![frozen], trained: drawn(5, 3), ..Policy::default() }
    }

    fn output(policy: &Policy, linear: &Linear, x: &Tensor, dropout: Option<Dropout>) -> (Tensor, Vec<Kept>) {
        let input = Input::new(x.clone());
        let mut product = Forward::new(linear, &input);
        let kept =
            policy.applied("m", true).iter().map(|a| a.forward(&mut product, dropout).unwrap()).collect();
        (product.finish().unwrap(), kept)
    }

    fn dora(set: &Adapters) -> &Dora {
        match set.find("m") {
            Some(super::super::Adapter::Dora(dora)) => dora,
            other => panic!("{other:?}"),
        }
    }

    fn gradients(
        policy: &Policy,
        linear: &Linear,
        (x, dy): (&Tensor, &Tensor),
        dropout: Option<Dropout>,
    ) -> (Tensor, Vec<f32>) {
        let (_, kept) = output(policy, linear, x, dropout);
        let mut gradients = vec![0.0; policy.trained.values().len()];
        let mut product = Backward::new(linear, dy).unwrap();
        for (applied, kept) in policy.applied("m", true).iter().zip(&kept) {
            applied.backward(&mut product, kept, Some(x), &mut gradients).unwrap();
        }
        (input_gradient(vec![product], None).unwrap().finish().unwrap(), gradients)
    }

    const DROPOUT: f32 = 0.3;

    fn dropouts() -> [Option<Dropout>; 2] {
        [None, Some(Dropout { probability: DROPOUT, stream: Stream::new(1, "dropout") })]
    }

    #[test]
    fn gradients_are_those_of_finite_differences_with_a_constant_norm() {
        let (x, dy) = (noise(&[11, 9], 1), noise(&[11, 20], 2));
        for dropout in dropouts() {
            let (policy, linear) = (policy(), linear(false));
            let (dx, gradients) = gradients(&policy, &linear, (&x, &dy), dropout);
            assert_finite_differences(&x, &dy, &dx, |x| Ok(output(&policy, &linear, x, dropout).0));
            // The norms of the unmoved matrices are given to the moved ones, by their version.
            let path = dora(&policy.trained).lora.path(policy.trained.values());
            let norms = decomposed::norms(&linear, path).unwrap();
            let values = Tensor::new(policy.trained.values().to_vec(), (1, gradients.len())).unwrap();
            let found = Tensor::new(gradients, values.shape()).unwrap();
            assert_finite_differences(&values, &dy, &found, |values| {
                let mut moved = self::policy();
                moved.trained.update(|all| all.copy_from_slice(values.numbers()));
                linear.norms(moved.trained.version(), || Ok(norms.clone())).unwrap();
                Ok(output(&moved, &linear, &x, dropout).0)
            });
        }
    }

    /// `m∘(x·(W + s·B·A)ᵀ)/‖W + s·B·A‖ + b`, in f64.
    fn plain(set: &Adapters, linear: &Linear, x: &Tensor) -> Vec<f32> {
        let (x, values, dora) = (x.numbers(), set.values(), dora(set));
        let (a, b, m) = (&values[dora.lora.a()], &values[dora.lora.b()], &values[dora.magnitude()]);
        let (rank, mut row) = (dora.lora.rank, vec![0.0f32; 9]);
        let mut out = vec![0.0; x.len() / 9 * 20];
        for o in 0..20 {
            linear.output_row(o, &mut row);
            let sum = |i: usize| -> f64 {
                let low: f64 = (0..rank).map(|k| f64::from(b[o * rank + k]) * f64::from(a[k * 9 + i])).sum();
                f64::from(row[i]) + 1.7 * low
            };
            let sums: Vec<f64> = (0..9).map(sum).collect();
            let norm = sums.iter().map(|x| x * x).sum::<f64>().sqrt();
            let bias = f64::from(linear.bias().unwrap()[o]);
            for (t, x) in x.chunks_exact(9).enumerate() {
                let dot: f64 = x.iter().zip(&sums).map(|(x, w)| f64::from(*x) * w).sum();
                out[t * 20 + o] = (f64::from(m[o]) * dot / norm + bias) as f32;
            }
        }
        out
    }

    #[test]
    fn the_product_is_the_papers_for_both_layouts_and_narrow_weights() {
        let x = noise(&[11, 9], 1);
        for transposed in [false, true] {
            for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F16, 1e-6), (DType::Bf16, 2e-2)] {
                let wide = linear(transposed);
                let bias = wide.bias().map(<[f32]>::to_vec);
                let linear = Linear::new(wide.weight().to_dtype(dtype), transposed, bias);
                let policy = Policy::of(drawn(5, 3));
                let want = Tensor::new(plain(&policy.trained, &linear, &x), (11, 20)).unwrap();
                assert_same(&output(&policy, &linear, &x, None).0, &want, tolerance, dtype.name());
            }
        }
    }

    #[test]
    fn it_starts_as_the_base_and_refuses_a_weight_of_zeros() {
        let (x, linear) = (noise(&[4, 9], 1), linear(false));
        let lora = || Lora::new(Module { name: "m".into(), inputs: 9, outputs: 20 }, 2, 5.0, 1.7);
        let set = Adapters::initialised_on([Dora::new(lora())], 1, |_| Some(&linear)).unwrap();
        let (y, _) = output(&Policy::of(set), &linear, &x, None);
        assert_same(&y, &linear.forward(&x).unwrap(), 1e-6, "at the start");
        assert!(Adapters::initialised([Dora::new(lora())], 1).is_err());
        let zeros = Linear::new(FrozenWeight::from_f32(vec![0.0; 180], &[20, 9]).unwrap(), false, None);
        let error = Adapters::initialised_on([Dora::new(lora())], 1, |_| Some(&zeros)).unwrap_err();
        assert!(error.to_string().contains("row 0"), "{error}");
    }

    #[test]
    fn what_merging_adds_is_what_it_computes() {
        let x = noise(&[4, 9], 1);
        for weight in [1.0, 0.6] {
            let (linear, set) = (linear(false), drawn(5, 3));
            let delta = dora(&set).delta(set.values(), weight, &linear).unwrap();
            let rows = delta.rows.unwrap();
            let mut merged = linear.weight().elements().to_f32();
            for (o, row) in merged.chunks_exact_mut(9).enumerate() {
                for (i, w) in row.iter_mut().enumerate() {
                    let low: f32 = (0..3).map(|k| delta.b[o * 3 + k] * delta.a[k * 9 + i]).sum();
                    *w += rows[o] * *w + low;
                }
            }
            let bias = linear.bias().map(<[f32]>::to_vec);
            let merged = Linear::new(FrozenWeight::from_f32(merged, &[20, 9]).unwrap(), false, bias);
            let (y, _) = output(&Policy::of(set.scaled(weight)), &linear, &x, None);
            assert_same(&y, &merged.forward(&x).unwrap(), 1e-5, "merged");
        }
    }
}
