//! PiSSA: a LoRA that starts from the largest singular values of the frozen weight (Meng et al. 2024, arXiv 2404.02948):
//! `W = U·S·Vᵀ`, `A₀ = √(S/s)·Vᵀ` and `B₀ = U·√(S/s)` of rank r, so that `s·B₀·A₀` is W's best approximation of that rank.
//!
//! PEFT trains A and B beside the residual `W − s·B₀·A₀`. Here W stays as it is, because the reference shares it, and the
//! adapter is the difference from its start: `ΔW = s·(B·A − B₀·A₀)`, which is the same function of A and B. It is written as
//! PEFT converts it (`path_initial_model_for_weight_conversion`): a LoRA of rank 2r with `[A; A₀]` and `[B, −B₀]`, for the
//! original base.

use std::sync::Arc;

use super::dropout::Dropout;
use super::kind::Kept;
use super::lora::Lora;
use super::store::Shape;
use crate::error::{Error, Result};
use crate::ops::Tensor;
use crate::ops::frozen_linear::Linear;
use crate::ops::host;
use crate::ops::lora_linear::{Backward, Forward, LowRank};
use crate::ops::svd::{self, Iterations, Svd};
use crate::random::Stream;

/// The PiSSA of one adapted module, during a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Pissa {
    /// Its low-rank matrices.
    pub lora: Lora,
    /// How its start is computed.
    pub iterations: Iterations,
    /// `A₀ [r, in]`, then `B₀ [out, r]`; empty before it is initialised.
    pub(super) start: Arc<[f32]>,
}

impl Pissa {
    /// Creates a PiSSA of low-rank matrices that is not initialised.
    pub fn new(lora: Lora, iterations: Iterations) -> Self {
        Self { lora, iterations, start: Arc::default() }
    }

    pub(super) fn identity(&self) -> String {
        format!("pissa {}", self.lora.identity())
    }

    pub(super) fn tensors(&self) -> Vec<(&'static str, Shape)> {
        self.lora.tensors()
    }

    /// Initialises A and B with the largest singular values of `weight`.
    pub(super) fn initialise(
        &mut self,
        seed: u64,
        values: &mut [f32],
        weight: Option<&Linear>,
    ) -> Result<()> {
        let Lora { module, rank, scale, inputs, outputs, .. } = &self.lora;
        let weight = weight.ok_or_else(|| {
            Error::Adapter(format!("{module}: PiSSA starts from the base's weight, which was not given"))
        })?;
        if *rank > *inputs.min(outputs) {
            return Err(Error::Config(format!(
                "lora.r gives {module} the rank {rank}, but its weight [{outputs}, {inputs}] has {} singular values; lower \
                 lora.r, or set its rank in lora.rank_pattern",
                inputs.min(outputs)
            )));
        }
        let matrix = host::build_rows(*outputs, *inputs, |row, out| weight.output_row(row, out));
        let stream = Stream::new(seed, &format!("pissa {module}"));
        let Svd { values: sizes, left, right } =
            svd::leading(&matrix, (*outputs, *inputs), *rank, self.iterations, stream);
        let roots: Vec<f32> = sizes.iter().map(|size| (size / scale).sqrt() as f32).collect();
        let mut start = vec![0.0; rank * (inputs + outputs)];
        let (a, b) = start.split_at_mut(rank * inputs);
        for (i, root) in roots.iter().enumerate() {
            let row = &right[i * inputs..(i + 1) * inputs];
            a[i * inputs..(i + 1) * inputs].iter_mut().zip(row).for_each(|(a, v)| *a = root * v);
            let column = &left[i * outputs..(i + 1) * outputs];
            b.iter_mut().skip(i).step_by(*rank).zip(column).for_each(|(b, u)| *b = root * u);
        }
        values[self.lora.range()].copy_from_slice(&start);
        self.start = start.into();
        Ok(())
    }

    /// `A₀` and `B₀` as a path; it fits nothing before they are initialised.
    fn start(&self) -> LowRank<'_> {
        let (a, b) = self.start.split_at((self.lora.rank * self.lora.inputs).min(self.start.len()));
        LowRank { a, b, rank: self.lora.rank, scale: self.lora.scale as f32 }
    }

    /// Runs the forward pass and keeps `z [T, r]`.
    pub(super) fn forward<'a>(
        &'a self,
        values: &'a [f32],
        product: &mut Forward<'a>,
        dropout: Option<Dropout>,
    ) -> Result<Kept> {
        let dropped = dropout.map(|dropout| dropout.mask(product.input(), &self.lora.module)).transpose()?;
        let masked = dropped.as_ref().map(|(masked, _)| masked);
        let z = product.difference(self.lora.path(values), self.start(), masked)?;
        Ok(Kept { hidden: vec![z], dropped })
    }

    pub(super) fn backward<'a>(
        &'a self,
        values: &'a [f32],
        product: &mut Backward<'a>,
        kept: &'a Kept,
        x: Option<&Tensor>,
        gradients: Option<&mut [f32]>,
    ) -> Result<()> {
        let path = self.lora.path(values);
        let dz = product.difference(path, self.start(), kept.dropped.as_ref().map(|(_, factors)| factors))?;
        self.lora.add_gradients(path, product, (kept, x), &dz, gradients)
    }

    /// The LoRA of rank 2r for the original base. As in PEFT, alpha is doubled too, or multiplied by √2 with rsLoRA,
    /// which is if not all modules of the set `are_plain`: a rank of 1 alone does not tell.
    pub(super) fn shared(&self, are_plain: bool) -> Lora {
        let factor = if are_plain { 2.0 } else { std::f64::consts::SQRT_2 };
        Lora { rank: 2 * self.lora.rank, alpha: factor * self.lora.alpha, ..self.lora.clone() }
    }

    /// Writes `[A; A₀]` and `[B, −B₀]` to the values of a set with the module `to`, which is [`Pissa::shared`].
    pub(super) fn share(&self, values: &[f32], to: &Lora, shared: &mut [f32]) {
        let (LowRank { a, b, rank, .. }, start) = (self.lora.path(values), self.start());
        let (first, second) = shared[to.a()].split_at_mut(a.len());
        first.copy_from_slice(a);
        second.copy_from_slice(start.a);
        for (i, row) in shared[to.b()].chunks_exact_mut(2 * rank).enumerate() {
            let (first, second) = row.split_at_mut(rank);
            first.copy_from_slice(&b[i * rank..(i + 1) * rank]);
            second.iter_mut().zip(&start.b[i * rank..]).for_each(|(to, b)| *to = -b);
        }
    }

    /// The opposite of [`Pissa::share`].
    pub(super) fn restore(&mut self, values: &mut [f32], from: &Lora, shared: &[f32]) {
        let rank = self.lora.rank;
        let (a, b) = (&shared[from.a()], &shared[from.b()]);
        let (own, start) = a.split_at(a.len() / 2);
        values[self.lora.a()].copy_from_slice(own);
        let mut begin = start.to_vec();
        let halves = |first: bool| {
            b.chunks_exact(2 * rank).flat_map(move |row| if first { &row[..rank] } else { &row[rank..] })
        };
        values[self.lora.b()].iter_mut().zip(halves(true)).for_each(|(to, b)| *to = *b);
        begin.extend(halves(false).map(|b| -b));
        self.start = begin.into();
    }
}

#[cfg(test)]
mod tests {
    use super::super::kind::Module;
    use super::super::{Adapters, Policy};
    use super::*;
    use crate::ops::lora_linear::{Input, input_gradient};
    use crate::ops::testing::{assert_finite_differences, noise, noise_of};
    use crate::weights::FrozenWeight;

    fn linear() -> Linear {
        Linear::new(FrozenWeight::from_f32(noise_of(180, 6), &[20, 9]).unwrap(), false, None)
    }

    fn begun(linear: &Linear) -> Policy {
        let module = Module { name: "m".into(), inputs: 9, outputs: 20 };
        let pissa = Pissa::new(Lora::new(module, 3, 5.0, 1.7), Iterations::UntilSettled);
        Policy::of(Adapters::initialised_on([pissa], 4, |_| Some(linear)).unwrap())
    }

    /// The same after some steps.
    fn moved(linear: &Linear) -> Policy {
        let mut policy = begun(linear);
        let step = noise_of(policy.trained.values().len(), 5);
        policy.trained.update(|values| values.iter_mut().zip(step).for_each(|(x, d)| *x += 0.3 * d));
        policy
    }

    fn output(policy: &Policy, linear: &Linear, x: &Tensor, dropout: Option<Dropout>) -> (Tensor, Vec<Kept>) {
        let input = Input::new(x.clone());
        let mut product = Forward::new(linear, &input);
        let applied = policy.applied("m", true);
        let kept = applied.iter().map(|a| a.forward(&mut product, dropout).unwrap()).collect();
        (product.finish().unwrap(), kept)
    }

    #[test]
    fn it_starts_as_the_base_to_the_bit_with_the_largest_singular_values() {
        let (linear, x) = (linear(), noise(&[7, 9], 1));
        let policy = begun(&linear);
        let plain = output(&Policy::default(), &linear, &x, None).0;
        assert_eq!(output(&policy, &linear, &x, None).0, plain);
        let Some(super::super::Adapter::Pissa(pissa)) = policy.trained.find("m") else { panic!() };
        // What is left of W after the part of rank 3 is orthogonal to A.
        let (a, b) = (&policy.trained.values()[pissa.lora.a()], &policy.trained.values()[pissa.lora.b()]);
        let (mut row, mut largest) = (vec![0.0; 9], 0.0f32);
        for output in 0..20 {
            linear.output_row(output, &mut row);
            for (i, x) in row.iter_mut().enumerate() {
                *x -= (0..3).map(|k| 1.7 * b[output * 3 + k] * a[k * 9 + i]).sum::<f32>();
            }
            for a in a.chunks_exact(9) {
                largest = largest.max(a.iter().zip(&row).map(|(a, x)| a * x).sum::<f32>().abs());
            }
        }
        assert!(largest < 1e-5, "{largest}");
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (x, dy, linear) = (noise(&[11, 9], 1), noise(&[11, 20], 2), linear());
        let dropout = Dropout { probability: 0.3, stream: Stream::new(1, "dropout") };
        for dropout in [None, Some(dropout)] {
            let policy = moved(&linear);
            let (_, kept) = output(&policy, &linear, &x, dropout);
            let mut gradients = vec![0.0; policy.trained.values().len()];
            let mut product = Backward::new(&linear, &dy).unwrap();
            for (applied, kept) in policy.applied("m", true).iter().zip(&kept) {
                applied.backward(&mut product, kept, Some(&x), &mut gradients).unwrap();
            }
            let dx = input_gradient(vec![product], None).unwrap().finish().unwrap();
            assert_finite_differences(&x, &dy, &dx, |x| Ok(output(&policy, &linear, x, dropout).0));
            let values = Tensor::new(policy.trained.values().to_vec(), (1, gradients.len())).unwrap();
            let gradients = Tensor::new(gradients, values.shape()).unwrap();
            assert_finite_differences(&values, &dy, &gradients, |values| {
                let mut other = moved(&linear);
                other.trained.update(|all| all.copy_from_slice(values.numbers()));
                Ok(output(&other, &linear, &x, dropout).0)
            });
        }
    }

    #[test]
    fn the_shared_lora_computes_the_same_and_gives_everything_back() {
        let (linear, x) = (linear(), noise(&[7, 9], 1));
        let policy = moved(&linear);
        let shared = policy.trained.shared().unwrap().unwrap();
        assert_eq!(shared.find_lora("m").map(|lora| (lora.rank, lora.scale)), Some((6, 1.7)));
        let want = output(&policy, &linear, &x, None).0;
        let mut other = begun(&linear);
        assert!(other.trained.restore(&shared).unwrap());
        assert_eq!(other.trained.values(), policy.trained.values());
        assert_eq!(output(&other, &linear, &x, None).0, want);
        let plain = output(&Policy::of(shared), &linear, &x, None).0;
        assert!(plain.numbers().iter().zip(want.numbers()).all(|(x, y)| (x - y).abs() < 1e-4));
    }

    #[test]
    fn a_rank_of_one_has_the_scale_of_its_set() {
        let linear = linear();
        let of = |stabilised: bool| {
            let pissa = |name: &str, rank: usize| {
                let divisor = if stabilised { (rank as f64).sqrt() } else { rank as f64 };
                let module = Module { name: name.into(), inputs: 9, outputs: 20 };
                Pissa::new(Lora::new(module, rank, 5.0, 5.0 / divisor), Iterations::UntilSettled)
            };
            let set = Adapters::initialised_on([pissa("m", 4), pissa("n", 1)], 4, |_| Some(&linear)).unwrap();
            let shared = set.shared().unwrap().unwrap();
            assert!(shared.has_peft_scales(), "{stabilised}");
            let common = super::super::PeftCommon {
                base: "b",
                dropout: 0.0,
                target_modules: Vec::new(),
                fan_in_fan_out: false,
            };
            let config = shared.peft_config(common, &str::to_string).unwrap();
            (shared.find_lora("n").unwrap().alpha, config["use_rslora"].as_bool().unwrap())
        };
        assert_eq!(of(false), (10.0, false));
        assert_eq!(of(true), (5.0 * std::f64::consts::SQRT_2, true));
    }
}
