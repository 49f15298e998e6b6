//! Combines several adapters into one, as PEFT's `add_weighted_adapter` does (PEFT 0.21, `peft/tuners/lora/model.py`
//! and `peft/utils/merge_utils.py`).
//!
//! For adapters of one rank, `linear`, `ties`, `dare_*` and `magnitude_prune` combine all A and all B element by
//! element. Each adapter's factor `f = weight·scale` is split into `√|f|` for B and `sign(f)·√|f|` for A. This is
//! cheap, but it is not the sum of the products. `cat` puts the matrices side by side, which gives the exact sum with
//! the sum of the ranks. `svd` is the best approximation of that sum with a given rank, computed from the factors alone
//! (`factors.rs`).
//!
//! The result has scale 1 (`lora_alpha = r`, no rsLoRA). PEFT also gives its result `lora_alpha = r`, but keeps
//! `use_rslora` of the first adapter, which would scale the result by √r; that is not reproduced here.

mod elementwise;
mod factors;

use std::collections::BTreeMap;
use std::fmt;

use rayon::prelude::*;

use crate::error::{Error, Problems, Result};
use crate::model::spec::LinearSpec;
use crate::random::Stream;
use crate::trainable::{Adapters, Lora};
pub use elementwise::MajoritySign;
use elementwise::Pruning;

/// How adapters are combined; the names are PEFT's `combination_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combination {
    /// Element-wise sum.
    Linear,
    /// Side by side: the exact sum.
    Cat,
    /// The exact sum, reduced to a rank by singular values.
    Svd,
    /// TIES (Yadav et al. 2023, arXiv 2306.01708): prune small elements, choose signs, average the elements that agree.
    Ties,
    /// DARE (Yu et al. 2023, arXiv 2311.03099): drop elements at random, rescale, add.
    DareLinear,
    /// Drop as DARE, then choose signs and average as TIES.
    DareTies,
    /// Prune small elements, then add.
    MagnitudePrune,
}

impl fmt::Display for Combination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::Cat => "cat",
            Self::Svd => "svd",
            Self::Ties => "ties",
            Self::DareLinear => "dare_linear",
            Self::DareTies => "dare_ties",
            Self::MagnitudePrune => "magnitude_prune",
        })
    }
}

/// Settings of a combination.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ComposeOptions {
    /// The combination.
    pub combination: Combination,
    /// The share of elements that `ties`, `dare_*` and `magnitude_prune` keep, in (0, 1].
    pub density: f64,
    /// For `ties` and `dare_ties`.
    pub majority_sign: MajoritySign,
    /// Seed of the random mask of `dare_*`. The mask is this crate's own; PEFT draws its mask with torch's global
    /// generator.
    pub seed: u64,
    /// The rank of `svd`; `None` is the largest rank of the adapters, as in PEFT.
    pub rank: Option<usize>,
}

/// What `svd` kept of one module.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its path.
    pub module: String,
    /// Squared singular values kept.
    pub kept: f64,
    /// All squared singular values, which is ‖ΔW‖_F².
    pub total: f64,
}

/// The combined adapter.
#[derive(Debug)]
pub struct Composed {
    /// Its matrices; every scale is 1.
    pub adapters: Adapters,
    /// What `svd` kept of each module.
    pub kept: Option<Vec<Kept>>,
}

impl Composed {
    /// Returns the share of the energy ‖ΔW‖_F² that the rank kept, over all modules and in the module that lost most.
    /// `None` unless singular values were removed.
    pub fn energy(&self) -> Option<(f64, f64)> {
        let share = |kept: f64, total: f64| if total > 0.0 { kept / total } else { 1.0 };
        let modules = self.kept.as_ref()?;
        let sum = |of: fn(&Kept) -> f64| modules.iter().map(of).sum::<f64>();
        let least = modules.iter().map(|m| share(m.kept, m.total)).fold(1.0, f64::min);
        Some((share(sum(|m| m.kept), sum(|m| m.total)), least))
    }
}

/// The matrices of one module in one adapter.
#[derive(Clone, Copy)]
struct Part<'a> {
    /// Number of the adapter.
    adapter: usize,
    a: &'a [f32],
    b: &'a [f32],
    rank: usize,
    /// weight·scale.
    factor: f64,
}

/// A module with its parts.
struct Module<'a> {
    lora: &'a Lora,
    parts: Vec<Part<'a>>,
}

/// The combined matrices of a module.
struct Matrices {
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

/// Combines adapters of one base, each multiplied by its weight. A module that only some adapters adapt is combined
/// from those.
///
/// # Errors
/// Fails if a module has different sizes in two adapters, if the combination needs equal ranks and they differ (the
/// error names all such modules), or if a setting is out of range.
pub fn compose(parts: &[(&Adapters, f64)], options: &ComposeOptions) -> Result<Composed> {
    compose_with(parts, options, &|adapter, module, half, density| {
        let stream = Stream::new(options.seed, &format!("dare {adapter} {half} {module}"));
        Box::new(move |index| f64::from(stream.uniform(index as u64)) < density)
    })
}

/// Makes the mask of `dare_*`: adapter, module, `lora_A` or `lora_B`, density → whether an element is kept.
type Masks<'m> = dyn Fn(usize, &str, &'static str, f64) -> Box<dyn Fn(usize) -> bool> + Sync + 'm;

fn compose_with(parts: &[(&Adapters, f64)], options: &ComposeOptions, masks: &Masks) -> Result<Composed> {
    let modules = modules(parts, options)?;
    let combined: Vec<(Matrices, Option<Kept>)> = modules
        .par_iter()
        .map(|module| match options.combination {
            Combination::Cat => (side_by_side(module), None),
            Combination::Svd => {
                let (matrices, kept) = cut(module, options.rank);
                (matrices, Some(kept))
            }
            _ => (by_elements(module, options, masks), None),
        })
        .collect();
    let loras = modules.iter().zip(&combined).map(|(module, (matrices, _))| {
        let Lora { module, inputs, outputs, .. } = module.lora;
        let linear = LinearSpec::new(module.clone(), *inputs, *outputs);
        Lora::new(&linear, matrices.rank, matrices.rank as f64, 1.0)
    });
    let mut adapters = Adapters::zeros(loras)?;
    let ranges: Vec<_> =
        adapters.loras("a combination of adapters")?.iter().map(|lora| (lora.a(), lora.b())).collect();
    // Both lists of modules are sorted by name.
    adapters.update(|values| {
        for ((a, b), (matrices, _)) in ranges.into_iter().zip(&combined) {
            values[a].copy_from_slice(&matrices.a);
            values[b].copy_from_slice(&matrices.b);
        }
    });
    if let Some((module, _)) = adapters.not_finite() {
        return Err(Error::Adapter(format!("{module} overflows f32; lower the weights")));
    }
    Ok(Composed { adapters, kept: combined.into_iter().map(|(_, kept)| kept).collect() })
}

/// Returns every adapted module, sorted by name.
///
/// # Errors
/// Fails if a setting is invalid or a module cannot be combined; the error lists all problems.
fn modules<'a>(parts: &[(&'a Adapters, f64)], options: &ComposeOptions) -> Result<Vec<Module<'a>>> {
    let mut problems = Problems::default();
    problems.require(!parts.is_empty(), || "there is nothing to combine: name an adapter".into());
    let density = options.density;
    problems.require(density > 0.0 && density <= 1.0, || {
        format!("the density is {density}; it is the share of numbers kept, above 0 and at most 1")
    });
    problems.require(options.rank != Some(0), || "the rank is 0; it must be 1 or more".into());
    let mut modules: BTreeMap<&str, Module> = BTreeMap::new();
    for (adapter, (adapters, weight)) in parts.iter().enumerate() {
        problems.require(weight.is_finite(), || format!("a weight is {weight}; it must be a finite number"));
        for lora in adapters.loras("a combination of adapters")? {
            let module = modules.entry(&lora.module).or_insert_with(|| Module { lora, parts: Vec::new() });
            let (first, these) = (module.lora, (lora.outputs, lora.inputs));
            problems.require((first.outputs, first.inputs) == these, || {
                let (module, o, i) = (&lora.module, first.outputs, first.inputs);
                format!("{module} is [{o}, {i}] in one adapter and {these:?} in another; they have different bases")
            });
            let (a, b) = (&adapters.values()[lora.a()], &adapters.values()[lora.b()]);
            module.parts.push(Part { adapter, a, b, rank: lora.rank, factor: weight * lora.scale });
        }
    }
    if !matches!(options.combination, Combination::Cat | Combination::Svd) {
        for (name, module) in &modules {
            let ranks: Vec<usize> = module.parts.iter().map(|part| part.rank).collect();
            problems.require(ranks.windows(2).all(|pair| pair[0] == pair[1]), || {
                let how = options.combination;
                format!("{name} has the ranks {ranks:?}, and {how} needs one rank; combine by cat or svd")
            });
        }
    }
    problems.finish().map_err(|e| Error::Adapter(e.to_string()))?;
    Ok(modules.into_values().collect())
}

/// Stacks the rows of `A`, multiplied by the factors, and puts the columns of `B` side by side.
fn side_by_side(module: &Module) -> Matrices {
    let rank = module.parts.iter().map(|part| part.rank).sum();
    let scaled =
        |part: &Part| part.a.iter().map(|a| (f64::from(*a) * part.factor) as f32).collect::<Vec<_>>();
    let a = module.parts.iter().flat_map(scaled).collect();
    let row = |out: usize| {
        module
            .parts
            .iter()
            .flat_map(move |part| part.b[out * part.rank..(out + 1) * part.rank].iter().copied())
    };
    let b = (0..module.lora.outputs).flat_map(row).collect();
    Matrices { rank, a, b }
}

/// Returns the sum reduced to a rank.
fn cut(module: &Module, rank: Option<usize>) -> (Matrices, Kept) {
    let Lora { inputs, outputs, .. } = *module.lora;
    let rank = rank.unwrap_or_else(|| module.parts.iter().map(|part| part.rank).max().unwrap_or(1));
    // The columns of B, and of Aᵀ multiplied by the factor.
    let column =
        |part: &Part, k: usize| part.b.iter().skip(k).step_by(part.rank).map(|b| f64::from(*b)).collect();
    let row = |part: &Part, k: usize| {
        part.a[k * inputs..(k + 1) * inputs].iter().map(|a| f64::from(*a) * part.factor).collect()
    };
    let each = || module.parts.iter().flat_map(|part| (0..part.rank).map(move |k| (part, k)));
    let b = factors::Columns { rows: outputs, columns: each().map(|(part, k)| column(part, k)).collect() };
    let a = factors::Columns { rows: inputs, columns: each().map(|(part, k)| row(part, k)).collect() };
    let found = factors::truncated(b, a, rank);
    let a = found.a.columns.iter().flatten().map(|x| *x as f32).collect();
    let b =
        (0..outputs).flat_map(|out| found.b.columns.iter().map(move |column| column[out] as f32)).collect();
    let (kept, total) = (found.squares[..found.b.columns.len()].iter().sum(), found.squares.iter().sum());
    (Matrices { rank: found.b.columns.len(), a, b }, Kept { module: module.lora.module.clone(), kept, total })
}

fn by_elements(module: &Module, options: &ComposeOptions, masks: &Masks) -> Matrices {
    let half = |name: &'static str, numbers: fn(&Part<'_>) -> Vec<f32>, weight: fn(f64) -> f64| {
        let tensors: Vec<Vec<f32>> = module
            .parts
            .iter()
            .map(|part| {
                let pruning = match options.combination {
                    _ if options.density >= 1.0 => Pruning::None,
                    Combination::Ties | Combination::MagnitudePrune => Pruning::Magnitude(options.density),
                    Combination::DareLinear | Combination::DareTies => {
                        let mask = masks(part.adapter, &module.lora.module, name, options.density);
                        Pruning::Random(options.density, mask)
                    }
                    _ => Pruning::None,
                };
                elementwise::prune(numbers(part), &pruning)
            })
            .collect();
        let weights: Vec<f64> = module.parts.iter().map(|part| weight(part.factor)).collect();
        match options.combination {
            Combination::Ties | Combination::DareTies => {
                elementwise::elected(&tensors, &weights, options.majority_sign)
            }
            _ => elementwise::summed(&tensors, &weights),
        }
    };
    let a = half("lora_A", |part| part.a.to_vec(), |f| f.abs().sqrt() * if f >= 0.0 { 1.0 } else { -1.0 });
    let b = half("lora_B", |part| part.b.to_vec(), |f| f.abs().sqrt());
    Matrices { rank: module.parts[0].rank, a, b }
}

#[cfg(test)]
mod tests;
