//! Loading a decoder's weights.

use std::sync::{Arc, Mutex};

use super::Decoder;
use super::replaced::Tables;
use crate::error::Result;
use crate::model::block::Block;
use crate::model::inventory;
use crate::model::norm::Norm;
use crate::model::spec::DecoderSpec;
use crate::model::tensors::Tensors;
use crate::ops::frozen_linear::Linear;
use crate::weights::nf4::Outcome;
use crate::weights::{DType, WeightSource};

impl Decoder {
    /// Reads a decoder's weights. Matrices are stored as `dtype` if it is given, else as in the file.
    ///
    /// # Errors
    /// If a tensor is missing or its shape differs from the spec.
    pub fn load(spec: DecoderSpec, source: &dyn WeightSource, dtype: Option<DType>) -> Result<Self> {
        let spec = inventory::settled(spec, source)?;
        Self::of_tensors(&spec, &Tensors::new(source, &spec, dtype), source)
    }

    /// Like [`Decoder::load`], with the projections of the blocks quantised to NF4; also returns what became of them.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn load_in_4bit(
        spec: DecoderSpec,
        source: &dyn WeightSource,
        dtype: Option<DType>,
    ) -> Result<(Self, Outcome)> {
        let spec = inventory::settled(spec, source)?;
        let tensors = Tensors::new(source, &spec, dtype).in_four_bits();
        Ok((Self::of_tensors(&spec, &tensors, source)?, tensors.outcome()))
    }

    fn of_tensors(spec: &DecoderSpec, tensors: &Tensors, source: &dyn WeightSource) -> Result<Self> {
        inventory::check(spec, source)?;
        let (vocab, hidden) = (spec.vocab_size, spec.hidden);
        let embedding = tensors.matrix(&inventory::embedding(spec, source), vocab, hidden)?;
        let positions = spec.positions.as_ref();
        let positions = positions
            .map(|p| tensors.matrix(&format!("{}.weight", p.module), spec.max_positions + p.offset, hidden))
            .transpose()?;
        let table = Arc::new(Linear::new(embedding.clone(), false, None));
        let head = match &spec.head {
            Some(head) => Arc::new(tensors.linear(head)?),
            None => table.clone(),
        };
        let blocks: Result<Vec<_>> = spec.layers.iter().map(|layer| Block::load(layer, tensors)).collect();
        Ok(Self {
            spec: spec.clone(),
            embedding,
            positions,
            blocks: blocks?,
            final_norm: Norm::load(&spec.final_norm, tensors)?,
            table,
            head,
            replaced: Tables::default(),
            storage: tensors.storage(),
            backend: None,
            exact: false,
            engine: Mutex::new(None),
        })
    }
}
