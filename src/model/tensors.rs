//! A checkpoint's tensors under the names that a family's file gives them, checked for shape.

use std::cell::RefCell;

use super::spec::LinearSpec;
use crate::error::{Error, Result};
use crate::ops::frozen_linear::Linear;
use crate::weights::{DType, FrozenWeight, WeightSource};

/// Reads tensors for a decoder.
pub struct Tensors<'a> {
    source: &'a dyn WeightSource,
    absent_prefix: &'static str,
    /// What matrices are stored as; `None`: as in the file.
    dtype: Option<DType>,
    /// How the matrices read so far are stored.
    storage: RefCell<Vec<&'static str>>,
}

impl<'a> Tensors<'a> {
    /// Reads from `source`; names may lack `absent_prefix`, matrices become `dtype` if there is one.
    pub fn new(source: &'a dyn WeightSource, absent_prefix: &'static str, dtype: Option<DType>) -> Self {
        Self { source, absent_prefix, dtype, storage: RefCell::default() }
    }

    fn get(&self, name: &str, shape: &[usize]) -> Result<FrozenWeight> {
        let short = name.strip_prefix(self.absent_prefix).unwrap_or(name);
        let name = if self.source.shape(name).is_none() { short } else { name };
        let weight = self.source.get(name)?;
        if weight.shape() != shape {
            return Err(Error::Model(format!(
                "tensor {name} of {} is {:?}, but config.json makes it {shape:?}; do they belong together?",
                self.source.describe(),
                weight.shape()
            )));
        }
        Ok(weight)
    }

    /// A matrix.
    ///
    /// # Errors
    /// If it is missing or has another shape.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<FrozenWeight> {
        let weight = self.get(name, &[rows, columns])?;
        let weight = self.dtype.map_or_else(|| weight.clone(), |dtype| weight.to_dtype(dtype));
        let mut storage = self.storage.borrow_mut();
        if !storage.contains(&weight.storage()) {
            storage.push(weight.storage());
        }
        Ok(weight)
    }

    /// Names of the storage types of the matrices read so far, as `Q8_0+Q4_K`.
    pub fn storage(&self) -> String {
        self.storage.borrow().join("+")
    }

    /// A vector, widened.
    ///
    /// # Errors
    /// As [`Tensors::matrix`].
    pub fn vector(&self, name: &str, size: usize) -> Result<Vec<f32>> {
        Ok(self.get(name, &[size])?.elements().to_f32())
    }

    /// A linear module's weight and bias.
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
