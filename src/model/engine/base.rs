//! The frozen decoder as read by the engine.

use crate::device::Kind;
use crate::model::block::Block;
use crate::model::norm::Norm;
use crate::model::spec::DecoderSpec;
use crate::ops::frozen_linear::Linear;
use crate::weights::{DType, FrozenWeight};

/// The parts of a decoder.
#[derive(Clone, Copy)]
pub(in crate::model) struct Base<'a> {
    pub(in crate::model) spec: &'a DecoderSpec,
    pub(in crate::model) embedding: &'a FrozenWeight,
    /// Learned positions, for models that have them.
    pub(in crate::model) positions: Option<&'a FrozenWeight>,
    pub(in crate::model) blocks: &'a [Block],
    pub(in crate::model) final_norm: &'a Norm,
    /// The language-model head, with the embedding's weight if they share it.
    pub(in crate::model) head: &'a Linear,
    /// Whether activations are f32 regardless of the weights' type.
    pub(in crate::model) exact: bool,
}

impl Base<'_> {
    /// The storage type of activations: bf16 if the weights are bf16 or quantised; otherwise f32, which is lossless.
    pub(in crate::model) fn kind(&self) -> Kind {
        let weights = self.blocks.iter().flat_map(Block::projections).map(|p| p.linear.weight());
        let exact = |dtype: Option<DType>| matches!(dtype, Some(DType::F32 | DType::F16));
        let (mut exact_ones, mut others) = (0, 0);
        weights.for_each(|weight| if exact(weight.dtype()) { exact_ones += 1 } else { others += 1 });
        if self.exact || exact_ones > 0 && others == 0 { Kind::F32 } else { Kind::Bf16 }
    }
}
