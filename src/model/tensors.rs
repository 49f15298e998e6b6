//! A checkpoint's tensors under the names that a family's file gives them, with checked shapes.

use std::cell::RefCell;

use super::spec::{DecoderSpec, LinearSpec};
use crate::error::{Error, Result};
use crate::ops::frozen_linear::Linear;
use crate::weights::nf4::{self, Outcome};
use crate::weights::{DType, FrozenWeight, WeightSource};

/// Reads tensors for a decoder.
pub struct Tensors<'a> {
    source: &'a dyn WeightSource,
    spec: &'a DecoderSpec,
    /// The storage type of matrices; `None` keeps that of the file.
    dtype: Option<DType>,
    /// Whether projections are quantised to NF4.
    four_bit: bool,
    /// What NF4 did so far.
    outcome: RefCell<Outcome>,
    /// The storage types of the matrices read so far.
    storage: RefCell<Vec<&'static str>>,
}

impl<'a> Tensors<'a> {
    /// Creates a reader of `source`, which may have any layout of `spec`; matrices are converted to `dtype` if it is
    /// given.
    pub fn new(source: &'a dyn WeightSource, spec: &'a DecoderSpec, dtype: Option<DType>) -> Self {
        Self {
            source,
            spec,
            dtype,
            four_bit: false,
            outcome: RefCell::default(),
            storage: RefCell::default(),
        }
    }

    /// Returns the same reader, with the projections of the blocks quantised to NF4.
    pub fn in_four_bits(self) -> Self {
        Self { four_bit: true, ..self }
    }

    /// What NF4 did to the projections read so far.
    pub fn outcome(&self) -> Outcome {
        self.outcome.borrow().clone()
    }

    fn get(&self, name: &str, shape: &[usize]) -> Result<FrozenWeight> {
        let name = &self.spec.stored_name(name, |name| self.source.shape(name).is_some());
        let weight = self.source.get(name)?;
        if weight.shape() != shape {
            return Err(Error::Model(format!(
                "tensor {name} of {} is {:?}, but config.json makes it {shape:?}; do they belong together?",
                self.source.describe(),
                weight.shape()
            )));
        }
        if let Some(value) = weight.first_non_finite() {
            return Err(Error::Weights(format!(
                "tensor {name} of {} holds {value}, which is not a valid weight; download or convert the model again",
                self.source.describe()
            )));
        }
        // The system keeps the file's pages as long as it has room; the passes that need them bring them back.
        weight.release();
        Ok(weight)
    }

    /// Reads a matrix.
    ///
    /// # Errors
    /// If it is missing or has another shape.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<FrozenWeight> {
        let weight = self.get(name, &[rows, columns])?;
        let weight = self.dtype.map_or_else(|| weight.clone(), |dtype| weight.to_dtype(dtype));
        self.note(&weight);
        Ok(weight)
    }

    /// Records how a matrix is stored.
    fn note(&self, weight: &FrozenWeight) {
        let mut storage = self.storage.borrow_mut();
        if !storage.contains(&weight.storage()) {
            storage.push(weight.storage());
        }
    }

    /// The names of the storage types of the matrices read so far, such as `Q8_0+Q4_K`.
    pub fn storage(&self) -> String {
        self.storage.borrow().join("+")
    }

    /// Reads a vector, widened to f32.
    ///
    /// # Errors
    /// As [`Tensors::matrix`].
    pub fn vector(&self, name: &str, size: usize) -> Result<Vec<f32>> {
        self.numbers(name, &[size])
    }

    /// Reads the values of a tensor, widened to f32.
    ///
    /// # Errors
    /// As [`Tensors::matrix`].
    pub fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.get(name, shape)?.elements().to_f32())
    }

    /// Reads a linear module of a block, quantised if requested.
    ///
    /// # Errors
    /// As [`Tensors::matrix`].
    pub fn projection(&self, spec: &LinearSpec) -> Result<Linear> {
        if !self.four_bit {
            return self.linear(spec);
        }
        let LinearSpec { module, inputs, outputs, bias, transposed } = spec;
        let (rows, columns) = if *transposed { (*inputs, *outputs) } else { (*outputs, *inputs) };
        let weight = self.get(&format!("{module}.weight"), &[rows, columns])?;
        let bias = bias.then(|| self.vector(&format!("{module}.bias"), *outputs)).transpose()?;
        let stored = Linear::new(weight, *transposed, bias);
        // Blocks lie along the inputs, as in bitsandbytes, which turns a transposed matrix as well.
        let by_output = stored.by_output()?;
        let found = nf4::nf4(by_output.weight())?;
        self.outcome.borrow_mut().add(module, *inputs, found.as_ref().map(|(_, loss)| *loss));
        let linear = match found {
            Some((weight, _)) => Linear::new(weight, false, stored.bias().map(<[f32]>::to_vec)),
            None => match self.dtype {
                Some(dtype) => stored.converted(dtype),
                None => stored,
            },
        };
        self.note(linear.weight());
        Ok(linear)
    }

    /// Reads a linear module's weight and bias.
    ///
    /// # Errors
    /// As [`Tensors::matrix`].
    pub fn linear(&self, spec: &LinearSpec) -> Result<Linear> {
        let LinearSpec { module, inputs, outputs, bias, transposed } = spec;
        let (rows, columns) = if *transposed { (*inputs, *outputs) } else { (*outputs, *inputs) };
        let weight = self.matrix(&format!("{module}.weight"), rows, columns)?;
        let bias = bias.then(|| self.vector(&format!("{module}.bias"), *outputs)).transpose()?;
        Ok(Linear::new(weight, *transposed, bias))
    }
}
