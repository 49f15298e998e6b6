//! Adapters of the language-model head. The decoder does not compute with them; merging and exporting use them.

use std::collections::BTreeMap;

use super::names;
use crate::error::{Error, Result};
use crate::files::FileStamp;
use crate::model::spec::{DecoderSpec, LinearSpec};
use crate::ops::frozen_linear::Linear;
use crate::ops::gemm::{Elements, Operand, Precision, gemm_add};
use crate::trainable::{Adapter, Adapters, Delta};
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
pub fn without(adapters: &Adapters, spec: &DecoderSpec) -> Adapters {
    let head = linear(spec).module;
    adapters.of_modules(|module| module != head)
}

/// A base with another head.
pub struct WithHead<'a> {
    source: &'a dyn WeightSource,
    /// The weight of the head, and its bias if an adapter has one.
    tensors: BTreeMap<String, FrozenWeight>,
}

/// The base with the adapters of its head added to it, in f32; `None` if none adapts the head. A head that an adapter
/// replaces, or that has rows of it, as a tied one has those of the embedding, is replaced first.
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
    let (weight, bias) = replaced(weight, spec, parts)?;
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
    let mut tensors = BTreeMap::from([(format!("{}.weight", head.module), weight)]);
    if let Some(bias) = bias {
        let bias = FrozenWeight::from_f32(bias, &[head.outputs])?;
        tensors.insert(format!("{}.bias", head.module), bias);
    }
    Ok(Some((WithHead { source, tensors }, DecoderSpec { head: Some(head), ..spec.clone() })))
}

/// The head with what adapters have in place of it, in the type of the base's, and the bias if one has that.
fn replaced(
    weight: FrozenWeight,
    spec: &DecoderSpec,
    parts: &[(&Adapters, f64)],
) -> Result<(FrozenWeight, Option<Vec<f32>>)> {
    let (head, width) = (linear(spec), spec.hidden);
    // Trained rows of the embedding are those of a head that is tied to it; a copy of the whole embedding is not its head.
    let rows = parts.iter().filter(|_| spec.head.is_none()).filter_map(|(set, _)| {
        match set.find(&spec.embedding)? {
            Adapter::TokenRows(rows) => Some((rows, set.values())),
            _ => None,
        }
    });
    let wholes = parts.iter().filter_map(|(set, _)| match set.find(&head.module)? {
        Adapter::Whole(whole) => Some((whole, set.values())),
        _ => None,
    });
    let (mut numbers, mut bias): (Option<Vec<f32>>, Option<Vec<f32>>) = (None, None);
    for (rows, values) in rows {
        let all = numbers.get_or_insert_with(|| weight.elements().to_f32());
        for (index, token) in rows.tokens.iter().enumerate() {
            let start = *token as usize * width;
            if let Some(to) = all.get_mut(start..start + width).filter(|_| rows.hidden == width) {
                to.copy_from_slice(&values[rows.row(index)]);
            }
        }
    }
    for (whole, values) in wholes {
        numbers = Some(whole.weight(values).to_vec());
        bias = whole.bias(values).map(<[f32]>::to_vec);
    }
    let Some(numbers) = numbers else { return Ok((weight, None)) };
    let wide = FrozenWeight::from_f32(numbers, &[head.outputs, head.inputs])?;
    Ok((weight.dtype().map_or_else(|| wide.clone(), |dtype| wide.to_dtype(dtype)), bias))
}

impl WeightSource for WithHead<'_> {
    fn names(&self) -> Vec<String> {
        let mut names = self.source.names();
        names.extend(self.tensors.keys().cloned());
        names.sort_unstable();
        names.dedup();
        names
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let own = self.tensors.get(name).map(|weight| weight.shape().to_vec());
        own.or_else(|| self.source.shape(name))
    }

    fn get(&self, name: &str) -> Result<FrozenWeight> {
        self.tensors.get(name).cloned().map_or_else(|| self.source.get(name), Ok)
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
