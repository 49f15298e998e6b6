//! A gradient under way: several operations add their part to one buffer.

use candle_core::Tensor;

use super::host;
use crate::error::Result;

/// The sum of what flows back into one activation `[rows, columns]`.
#[derive(Debug)]
pub struct Gradient {
    /// Row-major numbers.
    pub(super) data: Vec<f32>,
    /// Numbers in a row.
    pub(super) columns: usize,
}

impl Gradient {
    /// No gradient yet.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { data: host::zeros(rows * columns), columns }
    }

    /// Starts from a copy of `tensor [rows, columns]`.
    ///
    /// # Errors
    /// If it is not contiguous f32.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        Ok(Self { data: host::copy(&host::read(tensor)?), columns: tensor.dims2()?.1 })
    }

    /// Adds a tensor of the same shape.
    ///
    /// # Errors
    /// If it is not contiguous f32.
    pub fn add(&mut self, part: &Tensor) -> Result<()> {
        let part = host::read(part)?;
        host::update_rows(&mut self.data, self.columns, |row, out| {
            let from = &part[row * out.len()..(row + 1) * out.len()];
            super::simd::add_scaled(out, from, 1.0);
        });
        Ok(())
    }

    /// Lets `change` see the same numbers as rows of `columns`.
    ///
    /// # Errors
    /// Those of `change`.
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

    /// The sum as a tensor.
    ///
    /// # Errors
    /// If the columns do not divide the numbers.
    pub fn finish(self) -> Result<Tensor> {
        let rows = self.data.len() / self.columns.max(1);
        host::tensor(self.data, (rows, self.columns))
    }
}
