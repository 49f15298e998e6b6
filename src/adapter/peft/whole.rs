//! Whole weights of embedding and head that PEFT saves beside the low-rank matrices: `lm_head.base_layer.weight` with every
//! adapter of the head, and both of a model whose vocabulary was resized (`save_embedding_layers`). PEFT replaces the base's
//! weights with them when it loads the adapter, so they must be equal to the base's.

use super::super::{head, names};
use crate::error::Result;
use crate::model::spec::DecoderSpec;
use crate::weights::{FrozenWeight, SafetensorsSource, WeightSource};

/// Which of the two a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Embedding,
    Head,
}

impl Whole {
    fn words(self) -> &'static str {
        match self {
            Self::Embedding => "token embedding",
            Self::Head => "head",
        }
    }
}

/// The module of a tensor that is a whole weight.
pub(super) fn module(path: &str) -> Option<&str> {
    let path = path.strip_suffix(".weight")?;
    Some(path.strip_suffix(".base_layer").unwrap_or(path))
}

/// Returns why a whole weight is refused; `None` if it equals that of `base`.
///
/// # Errors
/// If the tensor cannot be read.
pub(super) fn misfit(
    name: &str,
    which: Whole,
    source: &SafetensorsSource,
    spec: &DecoderSpec,
    base: Option<&dyn WeightSource>,
) -> Result<Option<String>> {
    let words = which.words();
    let Some(base) = base else {
        return Ok(Some(format!("{name} is a whole {words}, and there is no base here to compare it with")));
    };
    let its_name = match which {
        Whole::Head => head::weight_name(base, spec),
        Whole::Embedding => names::weight_of(&spec.embedding, base, spec),
    };
    let (given, own) = (source.get(name)?, base.get(&its_name)?);
    if given.shape() != own.shape() {
        return Ok(Some(format!(
            "{name} is a {words} of {:?}, but the base's {its_name} is {:?}: the vocabulary was resized; resize the base's \
             before you name it here",
            given.shape(),
            own.shape()
        )));
    }
    if own.dtype().is_none() {
        return Ok(Some(format!(
            "{name} is a whole {words}, and the base's {its_name} is stored in {}, so the two cannot be equal; name the base as it \
             was before it was quantised",
            own.storage()
        )));
    }
    Ok(differing(&given, &own)?.map(|(count, row)| {
        format!(
            "{name} is not the base's {its_name}: {count} of {} numbers differ, the first in row {row}; the adapter belongs to \
             another base, or its {words} was trained too, which is not supported",
            own.elements().len()
        )
    }))
}

/// How many numbers differ once the base's are rounded to the type of the given ones, and the row of the first.
fn differing(given: &FrozenWeight, own: &FrozenWeight) -> Result<Option<(usize, usize)>> {
    // Numbers at a time, so that a head of gigabytes is not copied.
    const PIECE: usize = 1 << 20;
    let (Some(dtype), columns) = (given.dtype(), given.shape().last().copied().unwrap_or(1).max(1)) else {
        return Ok(Some((given.elements().len(), 0)));
    };
    let (mut count, mut first) = (0, None);
    let numbers = own.elements().len();
    for start in (0..numbers).step_by(PIECE) {
        let end = numbers.min(start + PIECE);
        let rounded = FrozenWeight::from_f32(own.elements().slice(start..end).to_f32(), &[end - start])?;
        let rounded = rounded.to_dtype(dtype);
        let size = dtype.size();
        let theirs = given.bytes().get(start * size..end * size).unwrap_or(&[]);
        let pairs = rounded.bytes().chunks_exact(size).zip(theirs.chunks_exact(size));
        for (at, _) in pairs.enumerate().filter(|(_, (a, b))| a != b) {
            count += 1;
            first.get_or_insert((start + at) / columns);
        }
    }
    Ok(first.map(|row| (count, row)))
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::weights::DType;

    #[test]
    fn numbers_are_compared_as_the_adapter_stores_them() {
        let base: Vec<f32> = (0..12).map(|i| i as f32 / 7.0 - 0.5).collect();
        let own = FrozenWeight::from_f32(base.clone(), &[4, 3]).unwrap();
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            assert_eq!(differing(&own.to_dtype(dtype), &own).unwrap(), None);
        }
        // A base in 16 bits, and an adapter with the same numbers in 32.
        let narrow = own.to_dtype(DType::Bf16);
        let wide = base.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
        assert_eq!(differing(&FrozenWeight::from_f32(wide, &[4, 3]).unwrap(), &narrow).unwrap(), None);
        // Not a result of rounding, but unrounded numbers beside a rounded base.
        assert!(differing(&own, &narrow).unwrap().is_some());
        let mut other = base;
        other[7] += 1.0;
        other[8] = f16::MAX.to_f32();
        let other = FrozenWeight::from_f32(other, &[4, 3]).unwrap();
        assert_eq!(differing(&other, &own).unwrap(), Some((2, 2)));
    }

    #[test]
    fn names_of_whole_weights() {
        assert_eq!(module("lm_head.base_layer.weight"), Some("lm_head"));
        assert_eq!(module("model.embed_tokens.weight"), Some("model.embed_tokens"));
        assert_eq!(module("model.embed_tokens.lora_embedding_A"), None);
    }
}
