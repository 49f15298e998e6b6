//! A gradient being accumulated: several operations add their parts to one buffer.

use super::Tensor;
use super::host;
use crate::error::{Error, Result};

/// The sum of the gradients that flow back into one activation `[rows, columns]`.
#[derive(Debug)]
pub struct Gradient {
    /// The numbers, row-major.
    pub(super) data: Vec<f32>,
    /// Number of columns.
    pub(super) columns: usize,
}

impl Gradient {
    /// Creates a gradient of zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { data: host::zeros(rows * columns), columns }
    }

    /// Creates a gradient from a copy of `tensor [rows, columns]`.
    pub fn of(tensor: &Tensor) -> Self {
        Self { data: host::copy(tensor.numbers()), columns: tensor.shape().1 }
    }

    /// Adds a tensor of the same shape.
    ///
    /// # Errors
    /// Returns an error if the shape differs.
    pub fn add(&mut self, part: &Tensor) -> Result<()> {
        let (found, part) = (part.shape(), part.numbers());
        if found.1 != self.columns || part.len() != self.data.len() {
            return Err(Error::Model(format!(
                "a gradient {found:?} added to one of {} columns",
                self.columns
            )));
        }
        host::update_rows(&mut self.data, self.columns, |row, out| {
            let from = &part[row * out.len()..(row + 1) * out.len()];
            super::simd::add_scaled(out, from, 1.0);
        });
        Ok(())
    }

    /// Checks that `tensors` have its shape.
    ///
    /// # Errors
    /// Returns an error if one has another.
    pub(super) fn expect(&self, tensors: &[&Tensor]) -> Result<()> {
        let fits =
            |tensor: &Tensor| tensor.shape().1 == self.columns && tensor.numbers().len() == self.data.len();
        match tensors.iter().find(|tensor| !fits(tensor)) {
            None => Ok(()),
            Some(other) => Err(Error::Model(format!(
                "a gradient of {} numbers in {} columns for a tensor {:?}",
                self.data.len(),
                self.columns,
                other.shape()
            ))),
        }
    }

    /// Calls `change` on the same numbers viewed as rows of `columns`.
    ///
    /// # Errors
    /// Returns the errors of `change`.
    pub fn with_columns(
        &mut self,
        columns: usize,
        change: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let before = std::mem::replace(&mut self.columns, columns);
        let done = change(self);
        self.columns = before;
        done
    }

    /// Returns the sum as a tensor.
    ///
    /// # Errors
    /// Returns an error if `columns` does not divide the number of elements.
    pub fn finish(self) -> Result<Tensor> {
        let rows = self.data.len() / self.columns.max(1);
        Tensor::new(self.data, (rows, self.columns))
    }
}
