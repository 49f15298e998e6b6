//! Adapters of the language-model head. The decoder does not compute with them; merging and exporting use them.

use super::names;
use crate::error::{Error, Result};
use crate::files::FileStamp;
use crate::model::spec::{DecoderSpec, LinearSpec};
use crate::ops::frozen_linear::Linear;
use crate::ops::gemm::{Elements, Operand, Precision, gemm_add};
use crate::trainable::{Adapters, Delta};
use crate::weights::{FrozenWeight, Stored, WeightSource};

/// The head, also of a model that shares its weight with the embedding.
pub fn linear(spec: &DecoderSpec) -> LinearSpec {
    spec.head_linear()
}

/// The tensor that holds the head's weight.
pub(super) fn weight_name(source: &dyn WeightSource, spec: &DecoderSpec) -> String {
    let module = spec.head.as_ref().map_or(&spec.embedding, |head| &head.module);
    names::weight_of(module, source, spec)
}

/// The adapter without its part for the head.
///
pub fn without(adapters: &Adapters, spec: &DecoderSpec) -> Adapters {
    let head = linear(spec).module;
    adapters.of_adapters(|adapter| adapter.module() != head || adapter.low_rank().is_none())
}

/// A base with another head.
pub struct WithHead<'a> {
    source: &'a dyn WeightSource,
    name: String,
    weight: FrozenWeight,
}

/// The base with the adapters of its head added to it, in f32; `None` if none adapts the head.
///
/// # Errors
/// If the head's weight is missing or has another shape.
pub fn adapted<'a>(
    source: &'a dyn WeightSource,
    spec: &DecoderSpec,
    parts: &[(&Adapters, f64)],
) -> Result<Option<(WithHead<'a>, DecoderSpec)>> {
    let head = linear(spec);
    let of_head = |set: &'_ Adapters| set.find(&head.module).is_some_and(|it| it.low_rank().is_some());
    if !parts.iter().any(|(set, _)| of_head(set)) {
        return Ok(None);
    }
    let weight = source.get(&weight_name(source, spec))?;
    if head.transposed || weight.shape() != [head.outputs, head.inputs] {
        return Err(Error::Adapter(format!(
            "{} is stored as {:?}, and merging into that type is not supported",
            head.module,
            weight.shape()
        )));
    }
    let before = weight.elements().to_f32();
    let mut sum = before.clone();
    for (set, factor) in parts {
        let Some(adapter) = set.find(&head.module).filter(|it| it.low_rank().is_some()) else { continue };
        let linear = || Ok(Linear::new(weight.clone(), false, None));
        let Delta { a, b, rank, rows } = &adapter.delta(set.values(), *factor, linear)?;
        for (at, factor) in rows.iter().flatten().enumerate() {
            let range = at * head.inputs..(at + 1) * head.inputs;
            sum[range.clone()].iter_mut().zip(&before[range]).for_each(|(sum, w)| *sum += factor * w);
        }
        let left = Operand::by_row(Elements::F32(b), head.outputs, *rank);
        let right = Operand::by_column(Elements::F32(a), *rank, head.inputs);
        gemm_add(&mut sum, &left, &right, Precision::F32);
    }
    let weight = FrozenWeight::from_f32(sum, &[head.outputs, head.inputs])?;
    let name = format!("{}.weight", head.module);
    Ok(Some((WithHead { source, name, weight }, DecoderSpec { head: Some(head), ..spec.clone() })))
}

impl WeightSource for WithHead<'_> {
    fn names(&self) -> Vec<String> {
        let mut names = self.source.names();
        names.push(self.name.clone());
        names.sort_unstable();
        names.dedup();
        names
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        if name == self.name { Some(self.weight.shape().to_vec()) } else { self.source.shape(name) }
    }

    fn get(&self, name: &str) -> Result<FrozenWeight> {
        if name == self.name { Ok(self.weight.clone()) } else { self.source.get(name) }
    }

    fn stored(&self, name: &str) -> Result<Stored<'_>> {
        self.source.stored(name)
    }

    fn files(&self) -> Vec<FileStamp> {
        self.source.files()
    }

    fn describe(&self) -> String {
        self.source.describe()
    }
}
