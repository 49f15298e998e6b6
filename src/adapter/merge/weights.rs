//! Reads back what was written and compares it with what it should be, module by module: `W'·x = W·x + Σ scale·B·(A·x)` for
//! a random x.
//!
//! For x of random signs, the mean of the square of `‖W'x − (Wx + ΔWx)‖` is the square of the Frobenius norm of the
//! difference. The rounding error is known from when the tensor was written, and is bounded by the storage type: a
//! number in bf16 has a relative error of at most 2⁻⁸, one in f16 of at most 2⁻¹¹. A module that was not merged, or has
//! another scale or misplaced rows, is off by the size of the adapter itself, even if the logits hardly show it.

use rayon::prelude::*;

use super::super::names;
use super::overlay::Overlay;
use super::plan::{self, Target};
use super::{Base, MergeReport};
use crate::error::{Error, Problems, Result};
use crate::model::spec::{DecoderSpec, LinearSpec};
use crate::random::Stream;
use crate::trainable::{Adapters, Delta};
use crate::weights::{Elements, FrozenWeight, WeightSource};

/// Factor of the rounding error that is allowed: its square has a mean of 1, and hardly varies with this many rows.
const TIMES: f64 = 4.0;
/// Error of the sums themselves, in f32 in the model and f64 here.
const ARITHMETIC: f64 = 1e-6;

/// Compares every adapted module of `merged` with base and adapters.
///
/// # Errors
/// If a module is further off than rounding explains (all are named), or its rounding error is above the type's bound.
pub fn check(
    base: &Base,
    adapters: &[(&Adapters, f64)],
    merged: (&dyn WeightSource, &DecoderSpec),
    report: &MergeReport,
) -> Result<()> {
    let overlay = Overlay::new(base, adapters)?;
    let (base, adapters) = &Overlay::resolved(overlay.as_ref(), base, adapters);
    let mut problems = Problems::default();
    for (name, target) in plan::targets(base, adapters)? {
        let module = &target.linear.module;
        let Some(told) = report.modules.iter().find(|told| told.module == *module) else {
            problems.add(format!("{module} was not written"));
            continue;
        };
        let source = if base.source.shape(&name).is_some() {
            name
        } else {
            super::super::head::weight_name(base.source, base.spec)
        };
        let before = base.source.get(&source)?;
        let after = merged.0.get(&names::weight_of(module, merged.0, merged.1))?;
        if before.shape() != after.shape() {
            problems.add(format!("{module} is {:?}, not {:?}", after.shape(), before.shape()));
            continue;
        }
        let found = Compared::of(&before, &after, &target);
        let allowed = TIMES * told.rounding_norm + ARITHMETIC * found.size;
        // A NaN is above every bound.
        problems.require(found.apart <= allowed, || {
            format!("{module} is off by {:.3e}, but rounding accounts for {allowed:.3e} at most", found.apart)
        });
        let unit = unit(&told.storage);
        problems.require(unit.is_none_or(|unit| told.rounding_norm <= unit * found.size + 1e-6), || {
            format!("{module} was rounded by {:.3e}, more than {} allows", told.rounding_norm, told.storage)
        });
    }
    problems
        .finish()
        .map_err(|e| Error::Weights(format!("the merged weights are not the sum of base and adapter:\n{e}")))
}

/// The largest relative error of a number; `None` for blocks, where it depends on the other numbers of the block.
fn unit(storage: &str) -> Option<f64> {
    match storage {
        "bf16" => Some(2f64.powi(-8)),
        "f16" => Some(2f64.powi(-11)),
        "f32" => Some(2f64.powi(-24)),
        _ => None,
    }
}

struct Compared {
    /// ‖W'x − (Wx + ΔWx)‖.
    apart: f64,
    /// ‖W'‖_F.
    size: f64,
}

impl Compared {
    fn of(before: &FrozenWeight, after: &FrozenWeight, target: &Target) -> Self {
        let columns = before.shape().last().copied().unwrap_or(1).max(1);
        let stream = Stream::new(1, &target.linear.module);
        let x: Vec<f64> =
            (0..columns).map(|i| if stream.uniform(i as u64) < 0.5 { -1.0 } else { 1.0 }).collect();
        let mut added = added(target, &x, before.shape()[0]);
        add_rows(target, before, &x, &mut added);
        let (old, new) = (before.elements(), after.elements());
        let row = |scratch: &mut Vec<f32>, row: usize| {
            let mut product = |elements: &Elements| {
                scratch.resize(columns, 0.0);
                elements.slice(row * columns..(row + 1) * columns).widen_into(scratch);
                let sums = scratch.iter().zip(&x).map(|(w, x)| (f64::from(*w) * x, f64::from(*w).powi(2)));
                sums.fold((0.0, 0.0), |(a, b), (product, square)| (a + product, b + square))
            };
            let ((before, _), (after, square)) = (product(&old), product(&new));
            ((after - before - added[row]).powi(2), square)
        };
        let rows: Vec<(f64, f64)> = (0..added.len()).into_par_iter().map_init(Vec::new, row).collect();
        let (apart, size) = rows.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
        Self { apart: apart.sqrt(), size: size.sqrt() }
    }
}

/// `ΔW·x`, computed through the low rank.
fn added(target: &Target, x: &[f64], rows: usize) -> Vec<f64> {
    let LinearSpec { inputs, transposed, .. } = target.linear;
    let mut sum = vec![0.0; rows];
    for addend in &target.addends {
        let Delta { a, b, rank, .. } = &addend.0;
        // ΔW is [out, in], computed as B·A; or its transpose as stored, Aᵀ·Bᵀ.
        let a = |k: usize, i: usize| f64::from(a[k * inputs + i]);
        let b = |o: usize, k: usize| f64::from(b[o * rank + k]);
        for k in 0..*rank {
            let inner: f64 =
                x.iter().enumerate().map(|(c, x)| x * if transposed { b(c, k) } else { a(k, c) }).sum();
            for (row, sum) in sum.iter_mut().enumerate() {
                *sum += inner * if transposed { a(k, row) } else { b(row, k) };
            }
        }
    }
    sum
}

/// Adds what the factors of a weight's outputs change of `W·x`.
fn add_rows(target: &Target, before: &FrozenWeight, x: &[f64], sums: &mut [f64]) {
    let elements = before.elements();
    for factors in target.addends.iter().filter_map(|addend| addend.0.rows.as_ref()) {
        let mut row = vec![0.0; x.len()];
        for (at, sum) in sums.iter_mut().enumerate() {
            elements.slice(at * x.len()..(at + 1) * x.len()).widen_into(&mut row);
            let factor = |column: usize| {
                f64::from(if target.linear.transposed { factors[column] } else { factors[at] })
            };
            let products = row.iter().zip(x).enumerate();
            *sum += products.map(|(c, (w, x))| factor(c) * f64::from(*w) * x).sum::<f64>();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::adapter::merge::{MergeOptions, merge};
    use crate::adapter::peft;
    use crate::model::families::{self, ConfigJson};
    use crate::weights::{DType, SafetensorsSource};

    fn open(directory: &Path) -> (SafetensorsSource, DecoderSpec) {
        let spec = families::spec(&ConfigJson::open(directory).unwrap()).unwrap();
        (SafetensorsSource::open(directory).unwrap(), spec)
    }

    /// A fault in a B with this many columns.
    type Fault = fn(&mut [f32], usize);

    /// The verdict of the check on a model into which `fault` of an adapter was merged instead of the adapter.
    fn verdict(name: &str, dtype: DType, fault: impl FnOnce(&mut Adapters)) -> Result<()> {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
        let (source, spec) = open(&directory);
        let base = Base { directory: &directory, source: &source, spec: &spec };
        let read = || peft::read(&directory.join("adapters/plain"), &spec).unwrap().adapters;
        let (adapters, mut other) = (read(), read());
        fault(&mut other);
        let place = tempfile::tempdir().unwrap();
        let output = place.path().join("merged");
        let options = MergeOptions { dtype: Some(dtype), ..MergeOptions::default() };
        let report = merge(&base, &[(&other, 1.0)], &output, &options).unwrap();
        let (merged, merged_spec) = open(&output);
        check(&base, &[(&adapters, 1.0)], (&merged, &merged_spec), &report)
    }

    fn values_of<'a>(adapters: &Adapters, module: &str, values: &'a mut [f32]) -> (&'a mut [f32], usize) {
        let lora = adapters.find_lora(module).unwrap();
        (&mut values[lora.b()], lora.rank)
    }

    #[test]
    fn what_was_merged_passes_in_every_type_and_layout() {
        for name in ["llama", "gpt2", "phi3", "gemma3"] {
            for dtype in [DType::F32, DType::Bf16, DType::F16] {
                verdict(name, dtype, |_| {}).unwrap_or_else(|error| panic!("{name} {dtype:?}: {error}"));
            }
        }
    }

    #[test]
    fn one_module_that_is_wrong_is_named_even_in_bf16() {
        let module = "model.layers.1.self_attn.q_proj";
        let faults: [(&str, Fault); 3] = [
            ("not merged", |b, _| b.fill(0.0)),
            ("twice its alpha", |b, _| b.iter_mut().for_each(|b| *b *= 2.0)),
            ("rows elsewhere", |b, rank| b.rotate_left(rank * 2)),
        ];
        for (what, fault) in faults {
            for dtype in [DType::F32, DType::Bf16] {
                let error = verdict("llama", dtype, |adapters| {
                    let mut values = adapters.values().to_vec();
                    let (b, rank) = values_of(adapters, module, &mut values);
                    fault(b, rank);
                    adapters.update(|all| all.copy_from_slice(&values));
                });
                let error = error.expect_err(what).to_string();
                assert!(error.contains(module), "{what}: {error}");
                assert!(!error.contains("k_proj"), "{what}: the others are right: {error}");
            }
        }
    }
}
