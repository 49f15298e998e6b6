//! Tensors of embedding and head that PEFT saves beside the low-rank matrices. Those that `modules_to_save` and
//! `trainable_token_indices` name were trained. The others are copies of the base's: `lm_head.base_layer.weight` with every
//! adapter of the head, and both weights of a model whose vocabulary was resized (`save_embedding_layers`). PEFT replaces the
//! base's weights with them when it loads the adapter, so they must be equal to the base's.

use super::super::{head, names};
use super::PeftConfig;
use crate::error::{Problems, Result};
use crate::model::config::TokenIndices;
use crate::model::spec::DecoderSpec;
use crate::trainable::{self, Adapter as Kind, TokenRows, token_rows};
use crate::weights::{FrozenWeight, SafetensorsSource, WeightSource};

/// Which of the two a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Embedding,
    Head,
}

/// Which part of a module a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The weight, of a module that PEFT may have trained.
    Weight,
    /// The weight of a module below an adapter.
    Frozen,
    /// The bias.
    Bias,
    /// Rows of the weight.
    Rows,
}

impl Whole {
    fn words(self) -> &'static str {
        match self {
            Self::Embedding => "token embedding",
            Self::Head => "head",
        }
    }
}

/// The module of a tensor that is not part of a pair, and which part of it.
pub(super) fn module(path: &str) -> Option<(&str, Part)> {
    let rows = format!(".{}", token_rows::ROWS);
    let parts = [
        (".base_layer.weight", Part::Frozen),
        (".weight", Part::Weight),
        (".bias", Part::Bias),
        (rows.as_str(), Part::Rows),
    ];
    parts.into_iter().find_map(|(suffix, part)| Some((path.strip_suffix(suffix)?, part)))
}

/// The adapters of tensors that were trained, each with the tensors of its values in order.
pub(super) type Trained = Vec<(Kind, Vec<String>)>;

/// Finds the trained tensors among those that belong to embedding or head, by the configuration; adds a problem for each
/// that does not fit. The others are left in `whole`.
pub(super) fn trained(
    whole: &mut Vec<(String, Whole, Part)>,
    source: &SafetensorsSource,
    config: &PeftConfig,
    (embedding, head): (&str, &str),
    spec: Option<&DecoderSpec>,
    problems: &mut Problems,
) -> Trained {
    let saved: Vec<&str> = config.modules_to_save.iter().flatten().map(String::as_str).collect();
    // As in PEFT, a name is the end of a module's path.
    let is_saved = |module: &str| saved.iter().any(|name| module.ends_with(name));
    let mut found = Trained::new();
    for (module, which) in [(embedding, Whole::Embedding), (head, Whole::Head)] {
        let name_of = |part: Part| {
            whole.iter().find(|(_, of, is)| (*of, *is) == (which, part)).map(|(name, ..)| name.clone())
        };
        if let Some(rows) = name_of(Part::Rows) {
            let tokens = config.trainable_token_indices.as_ref();
            let tokens = tokens.and_then(|tokens| tokens.of(module, which == Whole::Embedding));
            let shape = source.shape(&rows).unwrap_or_default();
            let hidden = spec.map_or(shape.last().copied().unwrap_or(0), |spec| spec.hidden);
            match tokens.filter(|tokens| which == Whole::Embedding && shape == [tokens.len(), hidden]) {
                Some(tokens) => {
                    check_tokens(tokens, spec, problems);
                    found.push((TokenRows::new(module.into(), tokens.to_vec(), hidden).into(), vec![rows]));
                }
                None => problems.add(format!(
                    "{rows} is {shape:?}, which trainable_token_indices in adapter_config.json does not explain"
                )),
            }
        }
        let Some(weight) = name_of(Part::Weight).filter(|_| is_saved(module)) else { continue };
        let shape = source.shape(&weight).unwrap_or_default();
        let bias = name_of(Part::Bias);
        let needed = spec.map(|spec| {
            [if which == Whole::Head { spec.head_linear().outputs } else { spec.vocab_size }, spec.hidden]
        });
        let [rows, columns] = shape[..] else {
            problems.add(format!("{weight} is {shape:?}; it must have two dimensions"));
            continue;
        };
        problems.require(needed.is_none_or(|needed| needed == [rows, columns]), || {
            format!("{weight} is {shape:?}; this base needs {:?}", needed.unwrap_or_default())
        });
        let has_bias = which == Whole::Head && spec.is_some_and(|spec| spec.head_linear().bias);
        problems.require(spec.is_none() || bias.is_some() == has_bias, || {
            format!(
                "{module} has {} bias in the file, but not in the base",
                if has_bias { "no" } else { "a" }
            )
        });
        let kind = trainable::Whole::new(module.into(), (rows, columns), bias.is_some());
        found.push((kind.into(), std::iter::once(weight).chain(bias).collect()));
    }
    whole.retain(|(name, ..)| !found.iter().any(|(_, names)| names.contains(name)));
    check_names(&found, &saved, config, spec, problems);
    found
}

fn check_tokens(tokens: &[u32], spec: Option<&DecoderSpec>, problems: &mut Problems) {
    let mut sorted = tokens.to_vec();
    sorted.sort_unstable();
    problems.require(sorted.windows(2).all(|two| two[0] != two[1]), || {
        "trainable_token_indices in adapter_config.json names a token twice".into()
    });
    let largest = sorted.last().copied().unwrap_or(0);
    problems.require(spec.is_none_or(|spec| (largest as usize) < spec.vocab_size), || {
        format!("trainable_token_indices in adapter_config.json names token {largest}, which this base does not have")
    });
}

/// Every name of the configuration has a tensor, and nothing is tied that is trained by itself.
fn check_names(
    found: &Trained,
    saved: &[&str],
    config: &PeftConfig,
    spec: Option<&DecoderSpec>,
    problems: &mut Problems,
) {
    let is_whole = |kind: &Kind| matches!(kind, Kind::Whole(_));
    for name in saved {
        let has = found.iter().any(|(kind, _)| is_whole(kind) && kind.module().ends_with(name));
        problems.require(has, || {
            format!(
                "modules_to_save in adapter_config.json names {}, of which the file has no weight; only the embedding and the \
                 head are read",
                names::shown(name)
            )
        });
    }
    let rows = found.iter().any(|(kind, _)| matches!(kind, Kind::TokenRows(_)));
    problems.require(
        rows || config.trainable_token_indices.as_ref().is_none_or(TokenIndices::is_empty),
        || {
            "trainable_token_indices in adapter_config.json is set, but the file has no rows of the embedding"
                .into()
        },
    );
    let tied = spec.is_some_and(|spec| spec.head.is_none()) && config.ensure_weight_tying == Some(true);
    problems.require(!(tied && found.iter().any(|(kind, _)| is_whole(kind))), || {
        "ensure_weight_tying in adapter_config.json is true: PEFT trained embedding and head as one tensor, which is not \
         supported; train with trainable_token_indices, or without ensure_weight_tying"
            .into()
    });
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
        assert_eq!(module("lm_head.base_layer.weight"), Some(("lm_head", Part::Frozen)));
        assert_eq!(module("model.embed_tokens.weight"), Some(("model.embed_tokens", Part::Weight)));
        assert_eq!(module("lm_head.bias"), Some(("lm_head", Part::Bias)));
        let rows = "model.embed_tokens.token_adapter.trainable_tokens_delta";
        assert_eq!(module(rows), Some(("model.embed_tokens", Part::Rows)));
        assert_eq!(module("model.embed_tokens.lora_embedding_A"), None);
    }
}
