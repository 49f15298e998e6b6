//! LoRA: two low-rank matrices beside a frozen weight (Hu et al. 2021, arXiv 2106.09685): `y = x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ`.
//!
//! `A` starts Kaiming-uniform and `B` at zero, as in PEFT. The product `s·B·A` is computed together with the weight's
//! product ([`crate::ops::lora_linear`]).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Value, json};

use super::dropout::Dropout;
use super::kind::{Delta, Kept, Module, PeftCommon};
use super::store::Shape;
use crate::error::{Error, Result};
use crate::ops::Tensor;
use crate::ops::host;
use crate::ops::lora_linear::{Backward, Forward, LowRank, LowRankGradients};
use crate::random::Stream;

/// Suffix that PEFT appends to the module's path for `A [r, in]`.
pub const A: &str = "lora_A.weight";
/// Suffix that PEFT appends to the module's path for `B [out, r]`.
pub const B: &str = "lora_B.weight";

/// The LoRA matrices of one adapted module.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Module path in the adapter file, without `base_model.model.`.
    pub module: String,
    /// Rank r.
    pub rank: usize,
    /// `lora_alpha` of this module.
    pub alpha: f64,
    /// Factor of `B·A`: alpha/r, or alpha/√r.
    pub scale: f64,
    /// Input features.
    pub inputs: usize,
    /// Output features.
    pub outputs: usize,
    /// Start of `A [r, in]` in the flat buffer; `B [out, r]` follows it.
    pub(super) offset: usize,
}

impl Lora {
    /// Creates the LoRA of a module with the given rank, alpha and scale.
    pub fn new(module: impl Into<Module>, rank: usize, alpha: f64, scale: f64) -> Self {
        let Module { name, inputs, outputs } = module.into();
        Self { module: name, rank, alpha, scale, inputs, outputs, offset: 0 }
    }

    /// The range of `A [r, in]` in the flat buffer of its set.
    pub fn a(&self) -> Range<usize> {
        self.offset..self.offset + self.rank * self.inputs
    }

    /// The range of `B [out, r]` in the flat buffer of its set.
    pub fn b(&self) -> Range<usize> {
        let start = self.offset + self.rank * self.inputs;
        start..start + self.outputs * self.rank
    }

    /// The range of both matrices.
    pub fn range(&self) -> Range<usize> {
        self.a().start..self.b().end
    }

    pub(super) fn identity(&self) -> String {
        format!("{} {} {};", self.module, self.rank, self.scale.to_bits())
    }

    pub(super) fn place(&mut self, offset: usize) {
        self.offset = offset;
    }

    pub(super) fn tensors(&self) -> Vec<(&'static str, Shape)> {
        vec![(A, vec![self.rank, self.inputs]), (B, vec![self.outputs, self.rank])]
    }

    /// Initialises as PEFT does: `A` Kaiming-uniform with a = √5, which is uniform in ±1/√in; `B` zero.
    pub(super) fn initialise(&self, seed: u64, values: &mut [f32]) {
        let stream = Stream::new(seed, &format!("lora_A {}", self.module));
        let bound = 1.0 / (self.inputs as f32).sqrt();
        for (i, value) in values[self.a()].iter_mut().enumerate() {
            *value = (2.0 * stream.uniform(i as u64) - 1.0) * bound;
        }
    }

    pub(super) fn path<'a>(&self, values: &'a [f32]) -> LowRank<'a> {
        let (a, b) = (&values[self.a()], &values[self.b()]);
        LowRank { a, b, rank: self.rank, scale: self.scale as f32 }
    }

    /// Runs the forward pass and keeps `z [T, r]`.
    pub(super) fn forward<'a>(
        &self,
        values: &'a [f32],
        product: &mut Forward<'a>,
        dropout: Option<Dropout>,
    ) -> Result<Kept> {
        let dropped = dropout.map(|dropout| dropout.mask(product.input(), &self.module)).transpose()?;
        let z = product.low_rank(self.path(values), dropped.as_ref().map(|(masked, _)| masked))?;
        Ok(Kept { hidden: vec![z], dropped })
    }

    pub(super) fn backward<'a>(
        &self,
        values: &'a [f32],
        product: &mut Backward<'a>,
        kept: &'a Kept,
        x: Option<&Tensor>,
        gradients: Option<&mut [f32]>,
    ) -> Result<()> {
        let path = self.path(values);
        let dz = product.low_rank(path, kept.dropped.as_ref().map(|(_, factors)| factors))?;
        self.add_gradients(path, product, (kept, x), &dz, gradients)
    }

    /// Adds the gradients of A and B, from `dz = s·dy·B [T, r]`, what the forward pass kept, and the input.
    pub(super) fn add_gradients(
        &self,
        path: LowRank,
        product: &Backward,
        (kept, x): (&Kept, Option<&Tensor>),
        dz: &[f32],
        gradients: Option<&mut [f32]>,
    ) -> Result<()> {
        let missing = |what: &str| Error::Model(format!("{}: {what} was not kept", self.module));
        let Some(gradients) = gradients else { return Ok(()) };
        let x = kept.dropped.as_ref().map(|(masked, _)| masked).or(x).ok_or_else(|| missing("its input"))?;
        let z = kept.hidden.first().ok_or_else(|| missing("its low-rank product"))?;
        let LowRankGradients { a, b } = product.gradients(path, (x, z), dz)?;
        for (part, range) in [(a, self.a()), (b, self.b())] {
            host::add(&mut gradients[range], &part);
        }
        Ok(())
    }

    /// Returns whether the scale is `alpha / r`.
    pub(super) fn is_plain(&self) -> bool {
        close(self.scale, self.alpha / self.rank as f64)
    }

    /// Returns whether the scale is `alpha / √r`, as in rsLoRA.
    pub(super) fn is_stabilised(&self) -> bool {
        close(self.scale, self.alpha / (self.rank as f64).sqrt())
    }

    pub(super) fn delta<'a>(&self, values: &'a [f32], weight: f64) -> Delta<'a> {
        let factor = weight * self.scale;
        let b: Vec<f32> = values[self.b()].iter().map(|b| (f64::from(*b) * factor) as f32).collect();
        Delta { a: &values[self.a()], b: Cow::Owned(b), rank: self.rank, rows: None }
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs()
}

/// Returns PEFT's `LoraConfig` (0.21) for these modules.
pub(super) fn peft_config(
    loras: &[&Lora],
    use_dora: bool,
    common: PeftCommon,
    named: &dyn Fn(&str) -> String,
) -> Value {
    let rank = most_common(loras.iter().map(|lora| lora.rank)).unwrap_or(8);
    let alpha = most_common(loras.iter().map(|lora| lora.alpha.to_bits())).map_or(8.0, f64::from_bits);
    let others = |differs: &dyn Fn(&Lora) -> Option<Value>| -> BTreeMap<String, Value> {
        loras.iter().filter_map(|lora| Some((named(&lora.module), differs(lora)?))).collect()
    };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": common.base,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": whole(alpha),
        "lora_dropout": common.dropout,
        "target_modules": common.target_modules,
        "rank_pattern": others(&|lora| (lora.rank != rank).then(|| json!(lora.rank))),
        "alpha_pattern": others(&|lora| (lora.alpha != alpha).then(|| whole(lora.alpha))),
        "use_rslora": loras.iter().all(|lora| lora.is_stabilised()) && !loras.iter().all(|lora| lora.is_plain()),
        "use_dora": use_dora,
        "fan_in_fan_out": common.fan_in_fan_out,
        "bias": "none",
        "modules_to_save": null,
        "init_lora_weights": true,
    })
}

/// Returns `x` as a JSON integer if it is one, because Ollama reads `lora_alpha` as a uint32.
fn whole(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) }
}

fn most_common<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts = BTreeMap::<T, usize>::new();
    values.for_each(|v| *counts.entry(v).or_default() += 1);
    counts.into_iter().max_by_key(|(_, n)| *n).map(|(v, _)| v)
}

#[cfg(test)]
mod tests {
    use super::super::{Adapter, Adapters};
    use super::*;
    use crate::ops::frozen_linear::Linear;
    use crate::ops::lora_linear::{Input, input_gradient};
    use crate::ops::testing::{assert_finite_differences, noise, noise_of};
    use crate::trainable::{Frozen, Policy};
    use crate::weights::FrozenWeight;

    fn lora(module: &str, inputs: usize) -> Lora {
        Lora::new(Module { name: module.into(), inputs, outputs: 5 }, 2, 6.0, 3.0)
    }

    #[test]
    fn modules_are_sorted_and_partition_the_buffer() {
        let set = Adapters::zeros([lora("b", 4), lora("a", 3)]).unwrap();
        assert_eq!(set.iter().map(Adapter::module).collect::<Vec<_>>(), ["a", "b"]);
        let loras = set.loras("a test").unwrap();
        let ranges: Vec<_> = loras.iter().flat_map(|lora| [lora.a(), lora.b()]).collect();
        assert_eq!(ranges, [0..6, 6..16, 16..24, 24..34]);
        let names: Vec<_> =
            set.store().entries().iter().map(|e| (e.name.as_str(), e.range.clone())).collect();
        assert_eq!(names[2..], [("b.lora_A.weight", 16..24), ("b.lora_B.weight", 24..34)]);
        assert_eq!(set.values().len(), 34);
        assert_eq!(set.find_lora("b"), Some(loras[1]));
        assert!(set.find("c").is_none());
        assert!(Adapters::zeros([lora("a", 3), lora("a", 3)]).is_err());
    }

    #[test]
    fn parts_of_a_set_keep_their_numbers_and_what_is_not_finite_is_named() {
        let mut set = Adapters::initialised([lora("a", 3), lora("b", 4), lora("c", 2)], 1).unwrap();
        let part = set.of_modules(|module| module != "b");
        let of = |set: &Adapters, module: &str| set.values()[set.find_lora(module).unwrap().range()].to_vec();
        assert_eq!((part.len(), of(&part, "a"), of(&part, "c")), (2, of(&set, "a"), of(&set, "c")));
        assert!(set.not_finite().is_none());
        let at = set.find_lora("b").unwrap().b().start;
        set.update(|values| values[at] = f32::INFINITY);
        assert_eq!(set.not_finite(), Some(("b", f32::INFINITY)));
    }

    #[test]
    fn initialisation_is_pefts_and_the_seeds() {
        let draw = |seed| Adapters::initialised([lora("a", 400), lora("b", 400)], seed).unwrap();
        let set = draw(1);
        let (first, second) = (set.find_lora("a").unwrap(), set.find_lora("b").unwrap());
        let (a, b) = (&set.values()[first.a()], &set.values()[first.b()]);
        // Uniform in ±1/√400: the standard deviation is 0.05/√3 ≈ 0.0289, estimated from 800 draws.
        let deviation = (a.iter().map(|x| x * x).sum::<f32>() / 800.0).sqrt();
        assert!(a.iter().all(|x| x.abs() <= 0.05) && (deviation - 0.0289).abs() < 0.002, "{deviation}");
        assert!(b.iter().all(|x| *x == 0.0));
        assert_eq!(set.values(), draw(1).values());
        assert_ne!(set.values(), draw(2).values());
        assert_ne!(a, &set.values()[second.a()]);
    }

    /// A policy with a module of a frozen adapter, one of a reference-only adapter, and a trained one.
    fn policy() -> Policy {
        let drawn = |seed: u64, rank: usize| {
            let module = Module { name: "m".into(), inputs: 9, outputs: 20 };
            let mut set = Adapters::zeros([Lora::new(module, rank, 5.0, 1.7)]).unwrap();
            set.update(|values| values.copy_from_slice(&noise_of(values.len(), seed)));
            set
        };
        let frozen = |seed, reference_only| Frozen { adapters: drawn(seed, 2), reference_only };
        Policy { frozen: vec![frozen(3, true), frozen(4, false)], trained: drawn(5, 3), ..Policy::default() }
    }

    fn linear() -> Linear {
        Linear::new(FrozenWeight::from_f32(noise_of(180, 6), &[20, 9]).unwrap(), false, None)
    }

    fn output(policy: &Policy, x: &Tensor, trained: bool, dropout: Option<Dropout>) -> (Tensor, Vec<Kept>) {
        let (linear, input) = (linear(), Input::new(x.clone()));
        let mut product = Forward::new(&linear, &input);
        let applied = policy.applied("m", trained);
        let kept = applied.iter().map(|a| a.forward(&mut product, dropout).unwrap()).collect();
        (product.finish().unwrap(), kept)
    }

    #[test]
    fn gradients_of_an_applied_adapter_are_those_of_finite_differences() {
        let (x, dy, linear) = (noise(&[11, 9], 1), noise(&[11, 20], 2), linear());
        let dropout = Dropout { probability: 0.3, stream: Stream::new(1, "dropout") };
        for dropout in [None, Some(dropout)] {
            let policy = policy();
            let (_, kept) = output(&policy, &x, true, dropout);
            let mut gradients = vec![0.0; policy.trained.values().len()];
            let mut product = Backward::new(&linear, &dy).unwrap();
            for (applied, kept) in policy.applied("m", true).iter().zip(&kept) {
                applied.backward(&mut product, kept, Some(&x), &mut gradients).unwrap();
            }
            let dx = input_gradient(vec![product], None).unwrap().finish().unwrap();
            assert_finite_differences(&x, &dy, &dx, |x| Ok(output(&policy, x, true, dropout).0));
            let values = Tensor::new(policy.trained.values().to_vec(), (1, gradients.len())).unwrap();
            let gradients = Tensor::new(gradients, values.shape()).unwrap();
            assert_finite_differences(&values, &dy, &gradients, |values| {
                let mut moved = self::policy();
                moved.trained.update(|all| all.copy_from_slice(values.numbers()));
                Ok(output(&moved, &x, true, dropout).0)
            });
        }
    }

    #[test]
    fn frozen_adapters_have_neither_dropout_nor_gradients() {
        let (x, policy, linear) = (noise(&[4, 9], 1), policy(), linear());
        let dropout = Some(Dropout { probability: 0.5, stream: Stream::new(1, "dropout") });
        assert_eq!(policy.applied("m", true).len(), 2, "not that of the reference alone");
        let reference = policy.applied("m", false);
        assert!(reference.len() == 2 && reference.iter().all(|applied| !applied.trained));
        let (with, kept) = output(&policy, &x, false, dropout);
        assert_eq!(with, output(&policy, &x, false, None).0);
        let dy = noise(&[4, 20], 2);
        let mut product = Backward::new(&linear, &dy).unwrap();
        for (applied, kept) in reference.iter().zip(&kept) {
            applied.backward(&mut product, kept, None, &mut []).unwrap();
        }
        let alone = Policy { trained: Adapters::default(), ..policy };
        assert_eq!(alone.applied("m", true).len(), 2, "nothing trains: the policy is the reference");
    }
}
