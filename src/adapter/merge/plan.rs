//! The plan of a merge, checked completely before anything is written.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::tensor::Dtype;

use super::super::{head, names};
use super::request::{Base, MergeOptions};
use super::shards::{Planned, Shard};
use super::tensor::Addend;
use crate::error::{Error, Problems, Result, nearest};
use crate::model::spec::LinearSpec;
use crate::ops::frozen_linear::Linear;
use crate::trainable::{Adapter, Adapters, Delta};
use crate::weights::DType;

/// Numbers that are compared at once.
const PIECE: usize = 1 << 20;

/// A tensor that adapters change.
pub(super) struct Target<'a> {
    pub linear: LinearSpec,
    pub addends: Vec<Addend<'a>>,
}

/// The files, and the tensors that change.
pub(super) struct Plan<'a> {
    pub shards: Vec<Shard>,
    /// By tensor name.
    pub targets: BTreeMap<String, Target<'a>>,
    /// The head that no longer shares the embedding's weight: its tensor, and the embedding's.
    pub untied: Option<(String, String)>,
}

impl<'a> Plan<'a> {
    pub fn new(base: &Base<'a>, adapters: &[(&'a Adapters, f64)], options: &MergeOptions) -> Result<Self> {
        let targets = targets(base, adapters)?;
        let head = format!("{}.weight", head::linear(base.spec).module);
        let untied = (base.spec.head.is_none() && targets.contains_key(&head))
            .then(|| (head, head::weight_name(base.source, base.spec)));
        let mut names = base.source.names();
        names.extend(untied.iter().map(|(head, _)| head.clone()));
        names.sort_unstable();
        names.dedup();
        let mut planned = Vec::new();
        for name in names {
            let stored = base.source.stored(source_name(&untied, &name))?;
            let kept: Option<Dtype> = serde_json::from_value(stored.dtype.clone().into()).ok();
            let chosen = options.dtype.filter(|_| kept.is_none_or(is_number)).map(safetensors_name);
            let dtype = chosen.or(kept).ok_or_else(|| {
                Error::Weights(format!(
                    "tensor {name} is {}, which safetensors cannot hold; choose bf16, f16 or f32",
                    stored.dtype
                ))
            })?;
            planned.push(Planned::new(&name, dtype, stored.shape)?);
        }
        Ok(Self { shards: Shard::plan(planned, options.shard_bytes), targets, untied })
    }

    /// The base's tensor from which a planned one is made.
    pub fn source_name<'n>(&'n self, planned: &'n Planned) -> &'n str {
        source_name(&self.untied, &planned.name)
    }

    /// The type to which a tensor's numbers are rounded; `None` if its bytes are copied.
    pub fn rounds_to(&self, base: &Base, planned: &Planned) -> Result<Option<DType>> {
        let copied = base.source.stored(self.source_name(planned))?.dtype == planned.dtype.to_string();
        Ok(match planned.dtype {
            _ if copied && !self.targets.contains_key(&planned.name) => None,
            Dtype::F32 => Some(DType::F32),
            Dtype::BF16 => Some(DType::Bf16),
            Dtype::F16 => Some(DType::F16),
            _ => None,
        })
    }

    pub fn files(&self) -> Vec<String> {
        self.shards.iter().map(|shard| shard.file.clone()).collect()
    }

    pub fn bytes(&self) -> u64 {
        self.shards.iter().flat_map(|shard| &shard.tensors).map(|tensor| tensor.bytes as u64).sum()
    }
}

fn source_name<'n>(untied: &'n Option<(String, String)>, name: &'n str) -> &'n str {
    match untied {
        Some((head, embedding)) if head == name => embedding,
        _ => name,
    }
}

fn is_number(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16)
}

fn safetensors_name(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
    }
}

/// The tensors that the adapters change; all problems are named.
pub(super) fn targets<'a>(
    base: &Base<'a>,
    adapters: &[(&'a Adapters, f64)],
) -> Result<BTreeMap<String, Target<'a>>> {
    check_head(base)?;
    let linears: BTreeMap<String, LinearSpec> = base
        .spec
        .linears()
        .cloned()
        .chain([head::linear(base.spec)])
        .map(|linear| (linear.module.clone(), linear))
        .collect();
    let mut targets: BTreeMap<String, Target> = BTreeMap::new();
    let mut problems = Problems::default();
    for (adapters, weight) in adapters {
        problems.require(weight.is_finite(), || {
            format!("an adapter's weight is {weight}; it must be a finite number")
        });
        for adapter in adapters.iter() {
            let Some(linear) = linears.get(adapter.module()) else {
                let hint = nearest(adapter.module(), linears.keys().map(String::as_str));
                let hint = hint.map_or(String::new(), |near| format!(" (did you mean {near}?)"));
                problems.add(format!("{} is not a linear module of this base{hint}", adapter.module()));
                continue;
            };
            let tied = base.spec.head.is_none() && linear.module == head::linear(base.spec).module;
            let from = if tied {
                head::weight_name(base.source, base.spec)
            } else {
                names::weight_of(&linear.module, base.source, base.spec)
            };
            let delta = check(base, linear, &from, adapter.shape()).and_then(|()| {
                let weight_of = || Ok(Linear::new(base.source.get(&from)?, linear.transposed, None));
                let delta = adapter.delta(adapters.values(), *weight, weight_of)?;
                check_size(adapter, &delta, *weight).map(|()| delta)
            });
            match delta {
                Ok(delta) => {
                    let name = if tied { format!("{}.weight", linear.module) } else { from };
                    let new = || Target { linear: linear.clone(), addends: Vec::new() };
                    let target = targets.entry(name).or_insert_with(new);
                    target.addends.push(Addend(delta));
                }
                Err(error) => problems.absorb(Err(error)),
            }
        }
    }
    problems
        .finish()
        .map_err(|e| Error::Adapter(format!("the adapter does not fit {}:\n{e}", base.source.describe())))?;
    Ok(targets)
}

/// A head that the base stores is kept, even if its configuration ties the head to the embedding.
fn check_head(base: &Base) -> Result<()> {
    let name = format!("{}.weight", head::linear(base.spec).module);
    if base.spec.head.is_some() || base.source.shape(&name).is_none() {
        return Ok(());
    }
    let embedding = head::weight_name(base.source, base.spec);
    let (stored, shared) = (base.source.get(&name)?, base.source.get(&embedding)?);
    let pieces = (0..stored.elements().len())
        .step_by(PIECE)
        .map(|start| start..(start + PIECE).min(stored.elements().len()));
    let same = |piece: Range<usize>| {
        stored.elements().slice(piece.clone()).to_f32() == shared.elements().slice(piece).to_f32()
    };
    if stored.shape() == shared.shape() && pieces.into_iter().all(same) {
        return Ok(());
    }
    Err(Error::Model(format!(
        "{} stores a {name} that differs from {embedding}, but config.json ties them, so one program reads it and the next \
         does not; set tie_word_embeddings to false to keep it, or delete it from the file",
        base.source.describe()
    )))
}

/// Refuses a change that has numbers beyond f32, in which sums are computed.
fn check_size(adapter: &Adapter, delta: &Delta, weight: f64) -> Result<()> {
    let largest = |numbers: &[f32]| numbers.iter().fold(0.0f64, |most, x| most.max(f64::from(*x).abs()));
    let are_finite = delta.b.iter().chain(delta.rows.iter().flatten()).all(|x| x.is_finite());
    // Some number of the product has the largest of A times the largest of a B, of the same rank.
    let columns = delta.a.len() / delta.rank.max(1);
    let of_rank = |rank: usize| {
        let b: Vec<f32> = delta.b.iter().skip(rank).step_by(delta.rank).copied().collect();
        largest(&delta.a[rank * columns..(rank + 1) * columns]) * largest(&b)
    };
    let product = (0..delta.rank).map(of_rank).fold(0.0, f64::max);
    if are_finite && product <= f64::from(f32::MAX) {
        return Ok(());
    }
    let lora = adapter.low_rank();
    let scale = lora.map_or(weight, |lora| weight * lora.scale);
    Err(Error::Adapter(format!(
        "{}: the adapter's change of the weight has numbers of {product:.1e}, which f32 cannot hold (A and B times {scale:.1e}, \
         which is lora_alpha / r times the adapter's weight): no storage type helps; correct lora_alpha in \
         adapter_config.json, or train the adapter again",
        adapter.module()
    )))
}

fn check(base: &Base, linear: &LinearSpec, name: &str, (outputs, inputs): (usize, usize)) -> Result<()> {
    let weight = base.source.get(name)?;
    let needed = if linear.transposed { [inputs, outputs] } else { [outputs, inputs] };
    if weight.shape() == needed {
        return Ok(());
    }
    Err(Error::Adapter(format!(
        "{} is adapted as [{outputs}, {inputs}], but tensor {name} is {:?}; was it trained on another base?",
        linear.module,
        weight.shape()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainable::{Lora, Module};

    #[test]
    fn a_change_beyond_f32_is_the_adapters_fault() {
        let said = |number: f32, scale: f64, weight: f64| {
            let module = Module { name: "m".into(), inputs: 3, outputs: 4 };
            let mut set = Adapters::zeros([Lora::new(module, 2, 1.0, scale)]).unwrap();
            set.update(|values| values.fill(number));
            let adapter = set.find("m").unwrap();
            let delta = adapter.delta(set.values(), weight, || unreachable!()).unwrap();
            check_size(adapter, &delta, weight).err().map(|error| error.to_string())
        };
        assert_eq!(said(1.0, 2.0, -1.0), None);
        assert_eq!(said(1e15, 1.0, 1.0), None, "the product is large, and a number");
        for (number, scale, weight) in [(1e30, 2.0, 1.0), (1.0, 1e308, 1.0), (1.0, 1e30, 1e30)] {
            let error = said(number, scale, weight).unwrap();
            assert!(error.starts_with("m: ") && error.contains("lora_alpha"), "{error}");
            assert!(!error.contains("bf16"), "{error}");
        }
    }
}
