//! Describes what an adapter does to its base, without computing `ΔW = scale·B·A`.
//!
//! With the Gram matrices G_A = A·Aᵀ and G_B = Bᵀ·B, both `[r, r]`: ‖ΔW‖_F² = scale²·Σ G_A∘G_B, and the squared singular
//! values of B·A are the eigenvalues of G_A^½·G_B·G_A^½.

use rayon::prelude::*;
use serde::Serialize;

use super::{head, names};
use crate::error::{Error, Problems, Result};
use crate::model::spec::DecoderSpec;
use crate::ops::symmetric::Square;
use crate::trainable::{Adapter, Adapters, Lora};
use crate::weights::{FrozenWeight, WeightSource};

/// One adapted module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModuleReport {
    /// Its path.
    pub module: String,
    /// Rank of A and B.
    pub rank: usize,
    /// Its `lora_alpha`.
    pub alpha: f64,
    /// Factor of B·A.
    pub scale: f64,
    /// Features in.
    pub inputs: usize,
    /// Features out.
    pub outputs: usize,
    /// ‖ΔW‖_F.
    pub delta_norm: f64,
    /// ‖ΔW‖_F / ‖W‖_F, if a base is given.
    pub share: Option<f64>,
    /// exp of the entropy of the shares of the squared singular values: the number of directions of ΔW, 1 to `rank`; 0 for ΔW = 0.
    pub effective_rank: f64,
    /// Singular values of ΔW, descending.
    pub singular_values: Vec<f64>,
    /// ‖m‖ of DoRA, to compare with ‖W‖_F; its other figures are those of `ΔW = scale·B·A` before the magnitude.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub magnitude: Option<f64>,
}

/// What is trained other than by low-rank matrices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OtherReport {
    /// The module's path.
    pub module: String,
    /// What it has.
    pub kind: String,
    /// Number of trained parameters.
    pub parameters: usize,
}

/// An adapter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdapterReport {
    /// Its modules with low-rank matrices, by name.
    pub modules: Vec<ModuleReport>,
    /// Its other modules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherReport>,
    /// Number of trained parameters.
    pub parameters: usize,
    /// ‖ΔW‖_F over all modules.
    pub delta_norm: f64,
    /// The same over ‖W‖_F of the adapted modules, if a base is given.
    pub share: Option<f64>,
}

/// How similar two adapters are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Cosine of ΔW and ΔW' of each module that both adapt; `None` if one of them is 0.
    pub modules: Vec<(String, Option<f64>)>,
    /// Cosine over all modules, where a module that an adapter lacks counts as 0; `None` if one of the adapters is 0.
    pub cosine: Option<f64>,
    /// Modules that only the first adapts.
    pub only_first: Vec<String>,
    /// Modules that only the second adapts.
    pub only_second: Vec<String>,
}

/// Describes an adapter; with its base, also relative to the weights that it changes.
///
/// # Errors
/// If the base lacks a module's weight, or has it in another shape.
pub fn inspect(
    adapters: &Adapters,
    base: Option<(&dyn WeightSource, &DecoderSpec)>,
) -> Result<AdapterReport> {
    let norms = base.map(|(source, spec)| base_norms(adapters, source, spec)).transpose()?;
    let low_rank = |adapter| Adapter::low_rank(adapter).map(|lora| (adapter, lora));
    let all: Vec<(&Adapter, &Lora)> = adapters.iter().filter_map(low_rank).collect();
    let mut modules: Vec<ModuleReport> =
        all.par_iter().map(|(adapter, lora)| module(adapters, adapter, lora)).collect();
    if let Some(norms) = &norms {
        modules
            .iter_mut()
            .zip(norms)
            .for_each(|(module, norm)| module.share = ratio(module.delta_norm, *norm));
    }
    let delta_norm = norm(modules.iter().map(|module| module.delta_norm));
    let share = norms.and_then(|norms| ratio(delta_norm, norm(norms)));
    modules.sort_by(|a, b| natural(&a.module).cmp(&natural(&b.module)));
    let others = adapters.iter().filter(|adapter| adapter.low_rank().is_none());
    let others = others
        .map(|adapter| OtherReport {
            module: adapter.module().to_string(),
            kind: adapter.kind().to_string(),
            parameters: adapter.parameters(),
        })
        .collect();
    Ok(AdapterReport { modules, others, parameters: adapters.values().len(), delta_norm, share })
}

/// A key by which layer 2 comes before layer 10.
fn natural(module: &str) -> Vec<(u64, &str)> {
    // Numbers before names; a number of more digits than any layer has is a name.
    module.split('.').map(|part| part.parse().map_or((u64::MAX, part), |number| (number, ""))).collect()
}

/// Compares two adapters of one base.
///
/// # Errors
/// If a module has other sizes in one than in the other; all such are named.
pub fn compare<'a>(first: &'a Adapters, second: &'a Adapters) -> Result<Comparison> {
    let (ones, others) = (first.loras("a comparison")?, second.loras("a comparison")?);
    let pair = |one: &&'a Lora| second.find_lora(&one.module).map(|other| (*one, other));
    let shared: Vec<(&Lora, &Lora)> = ones.iter().filter_map(pair).collect();
    let mut problems = Problems::default();
    for (a, b) in &shared {
        problems.require((a.inputs, a.outputs) == (b.inputs, b.outputs), || {
            let (module, ao, ai, bo, bi) = (&a.module, a.outputs, a.inputs, b.outputs, b.inputs);
            format!("{module} is [{ao}, {ai}] in one adapter and [{bo}, {bi}] in the other; they have different bases")
        });
    }
    problems.finish().map_err(|e| Error::Adapter(e.to_string()))?;
    let size = |set: &Adapters, loras: &[&Lora]| {
        norm(loras.par_iter().map(|s| inner(set, s, set, s).max(0.0).sqrt()).collect::<Vec<_>>())
    };
    let products: Vec<(f64, f64)> = shared
        .par_iter()
        .map(|(a, b)| {
            let sizes = inner(first, a, first, a).max(0.0) * inner(second, b, second, b).max(0.0);
            (inner(first, a, second, b), sizes.sqrt())
        })
        .collect();
    let only = |these: &[&Lora], those: &Adapters| -> Vec<String> {
        let alone = these.iter().filter(|lora| those.find(&lora.module).is_none());
        alone.map(|lora| lora.module.clone()).collect()
    };
    Ok(Comparison {
        modules: shared
            .iter()
            .zip(&products)
            .map(|((a, _), (x, y))| (a.module.clone(), ratio(*x, *y)))
            .collect(),
        cosine: ratio(
            products.iter().map(|(product, _)| product).sum(),
            size(first, &ones) * size(second, &others),
        ),
        only_first: only(&ones, second),
        only_second: only(&others, first),
    })
}

fn ratio(x: f64, y: f64) -> Option<f64> {
    (y > 0.0).then(|| x / y)
}

fn norm(norms: impl IntoIterator<Item = f64>) -> f64 {
    norms.into_iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn module(adapters: &Adapters, adapter: &Adapter, lora: &Lora) -> ModuleReport {
    let magnitude = match adapter {
        Adapter::Dora(dora) => Some(norm(adapters.values()[dora.magnitude()].iter().map(|m| f64::from(*m)))),
        _ => None,
    };
    let squares = squared_singular_values(adapters, lora);
    let total: f64 = squares.iter().sum();
    let entropy: f64 = squares.iter().filter(|x| **x > 0.0).map(|x| -(x / total) * (x / total).ln()).sum();
    let Lora { module, rank, alpha, scale, inputs, outputs, .. } = lora.clone();
    ModuleReport {
        module,
        rank,
        alpha,
        scale,
        inputs,
        outputs,
        delta_norm: inner(adapters, lora, adapters, lora).max(0.0).sqrt(),
        share: None,
        effective_rank: if total > 0.0 { entropy.exp() } else { 0.0 },
        singular_values: squares.iter().map(|x| x.sqrt()).collect(),
        magnitude,
    }
}

/// Σ ΔW∘ΔW' of two modules of one shape: `scale·scale'·Σ (A·A'ᵀ)∘(Bᵀ·B')`.
fn inner(first: &Adapters, one: &Lora, second: &Adapters, other: &Lora) -> f64 {
    let a = across_a(&first.values()[one.a()], &second.values()[other.a()], one.inputs);
    let b = across_b(&first.values()[one.b()], one.rank, &second.values()[other.b()], other.rank);
    one.scale * other.scale * a.iter().zip(&b).map(|(a, b)| a * b).sum::<f64>()
}

/// `A·A'ᵀ [r, r']` of `A [r, in]` and `A' [r', in]`.
fn across_a(one: &[f32], other: &[f32], inputs: usize) -> Vec<f64> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
    one.chunks_exact(inputs).flat_map(|x| other.chunks_exact(inputs).map(move |y| dot(x, y))).collect()
}

/// `Bᵀ·B' [r, r']` of `B [out, r]` and `B' [out, r']`.
fn across_b(one: &[f32], rank: usize, other: &[f32], other_rank: usize) -> Vec<f64> {
    let mut sum = vec![0.0; rank * other_rank];
    for (x, y) in one.chunks_exact(rank).zip(other.chunks_exact(other_rank)) {
        for (x, sum) in x.iter().zip(sum.chunks_exact_mut(other_rank)) {
            y.iter().zip(sum).for_each(|(y, sum)| *sum += f64::from(*x) * f64::from(*y));
        }
    }
    sum
}

/// Squared singular values of ΔW, descending.
fn squared_singular_values(adapters: &Adapters, lora: &Lora) -> Vec<f64> {
    let (a, b, n) = (&adapters.values()[lora.a()], &adapters.values()[lora.b()], lora.rank);
    let gram_b = Square { n, values: across_b(b, n, b, n) };
    let of_a = Square { n, values: across_a(a, a, lora.inputs) }.eigen();
    let root = Square::from_fn(n, |i, j| of_a.values[i].max(0.0).sqrt() * of_a.vectors.at(i, j));
    let middle = root.times(&gram_b).times(&root.transposed());
    // Rounding may make the two halves differ slightly.
    let middle = Square::from_fn(n, |i, j| (middle.at(i, j) + middle.at(j, i)) / 2.0);
    middle.eigen().values.iter().map(|x| x.max(0.0) * lora.scale * lora.scale).collect()
}

/// ‖W‖_F of each adapted module.
fn base_norms(adapters: &Adapters, source: &dyn WeightSource, spec: &DecoderSpec) -> Result<Vec<f64>> {
    let norm_of = |lora: &Lora| {
        let tied = lora.module == head::linear(spec).module;
        let name =
            if tied { head::weight_name(source, spec) } else { names::weight_of(&lora.module, source, spec) };
        let weight = source.get(&name)?;
        let shape = weight.shape();
        if shape != [lora.outputs, lora.inputs] && shape != [lora.inputs, lora.outputs] {
            return Err(Error::Adapter(format!(
                "{} is adapted as [{}, {}], but {} has it as {shape:?}; was it trained on another base?",
                lora.module,
                lora.outputs,
                lora.inputs,
                source.describe()
            )));
        }
        Ok(frobenius(&weight))
    };
    adapters.iter().filter_map(Adapter::low_rank).map(norm_of).collect()
}

fn frobenius(weight: &FrozenWeight) -> f64 {
    // Pieces of fixed size, so that the sum does not depend on the number of threads.
    const PIECE: usize = 1 << 16;
    let elements = weight.elements();
    let piece = |at: usize| {
        let range = at * PIECE..elements.len().min((at + 1) * PIECE);
        elements.slice(range).to_f32().iter().map(|x| f64::from(*x).powi(2)).sum::<f64>()
    };
    let sums: Vec<f64> = (0..elements.len().div_ceil(PIECE)).into_par_iter().map(piece).collect();
    sums.into_iter().sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests;
