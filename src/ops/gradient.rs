//! A gradient under way: several operations add their part to one buffer.

use candle_core::{Device, Tensor};

use super::host;
use crate::error::Result;

/// The sum of what flows back into one activation `[rows, columns]`.
#[derive(Debug)]
pub enum Gradient {
    /// On the CPU: an owned buffer, added to in place.
    Host {
        /// Row-major numbers.
        data: Vec<f32>,
        /// Numbers in a row.
        columns: usize,
    },
    /// Elsewhere: a tensor, replaced by each sum.
    Device(Tensor),
}

impl Gradient {
    /// No gradient yet.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn zeros(rows: usize, columns: usize, device: &Device) -> Result<Self> {
        if device.is_cpu() {
            return Ok(Self::Host { data: host::zeros(rows * columns), columns });
        }
        Ok(Self::Device(Tensor::zeros((rows, columns), candle_core::DType::F32, device)?))
    }

    /// Starts from a copy of `tensor [rows, columns]`.
    ///
    /// # Errors
    /// If it is not contiguous f32.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        if !tensor.device().is_cpu() {
            return Ok(Self::Device(tensor.clone()));
        }
        Ok(Self::Host { data: host::copy(&host::read(tensor)?), columns: tensor.dims2()?.1 })
    }

    /// Adds a tensor of the same shape.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn add(&mut self, part: &Tensor) -> Result<()> {
        match self {
            Self::Host { data, columns } => {
                let part = host::read(part)?;
                host::update_rows(data, *columns, |row, out| {
                    let from = &part[row * out.len()..(row + 1) * out.len()];
                    super::simd::add_scaled(out, from, 1.0);
                });
            }
            Self::Device(sum) => *sum = (&*sum + part)?,
        }
        Ok(())
    }

    /// Lets `change` see the same numbers as `[rows, columns]` of another cut.
    ///
    /// # Errors
    /// Those of `change`, or if the numbers do not make that shape.
    pub fn with_rows(
        &mut self,
        (rows, columns): (usize, usize),
        change: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Host { columns: mine, .. } => {
                let before = std::mem::replace(mine, columns);
                change(self)?;
                if let Self::Host { columns: mine, .. } = self {
                    *mine = before;
                }
            }
            Self::Device(tensor) => {
                let before = tensor.shape().clone();
                *tensor = tensor.reshape((rows, columns))?;
                change(self)?;
                if let Self::Device(tensor) = self {
                    *tensor = tensor.reshape(before)?;
                }
            }
        }
        Ok(())
    }

    /// The sum as a tensor.
    ///
    /// # Errors
    /// Never on the CPU.
    pub fn finish(self) -> Result<Tensor> {
        match self {
            Self::Host { data, columns } => {
                let rows = data.len() / columns.max(1);
                host::tensor(data, (rows, columns))
            }
            Self::Device(tensor) => Ok(tensor),
        }
    }
}
