//! One frozen tensor.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;

use super::{DType, Elements};
use crate::error::{Error, Result};

/// A tensor that never changes and has no gradient.
#[derive(Clone, Debug)]
pub struct FrozenWeight {
    shape: Vec<usize>,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    /// Bytes of a mapped file, checked for length and alignment when made.
    Mapped {
        file: Arc<Mmap>,
        start: usize,
        bytes: usize,
        dtype: DType,
    },
    F32(Arc<[f32]>),
    Bf16(Arc<[bf16]>),
    F16(Arc<[f16]>),
}

impl FrozenWeight {
    /// A tensor of f32 numbers.
    ///
    /// # Errors
    /// If the shape does not hold just these numbers.
    pub fn from_f32(values: Vec<f32>, shape: &[usize]) -> Result<Self> {
        let weight = Self { shape: shape.to_vec(), data: Data::F32(values.into()) };
        weight.checked()
    }

    /// A tensor in a mapped file: `bytes` bytes from `start`. A misaligned one is copied.
    ///
    /// # Errors
    /// If the bytes are outside the file, or not just those of the shape.
    pub fn from_file(
        file: &Arc<Mmap>,
        start: usize,
        bytes: usize,
        dtype: DType,
        shape: &[usize],
    ) -> Result<Self> {
        let slice = start.checked_add(bytes).and_then(|end| file.get(start..end)).ok_or_else(|| {
            Error::Weights(format!("a tensor's {bytes} bytes at {start} lie outside its file"))
        })?;
        let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        if count.and_then(|n| n.checked_mul(dtype.size())) != Some(bytes) {
            return Err(Error::Weights(format!(
                "a tensor of shape {shape:?} in {} has {bytes} bytes",
                dtype.name()
            )));
        }
        let aligned = slice.as_ptr().align_offset(dtype.size()) == 0;
        let data = if aligned {
            Data::Mapped { file: file.clone(), start, bytes, dtype }
        } else {
            match dtype {
                DType::F32 => Data::F32(copied(slice)),
                DType::Bf16 => Data::Bf16(copied(slice)),
                DType::F16 => Data::F16(copied(slice)),
            }
        };
        Ok(Self { shape: shape.to_vec(), data })
    }

    fn checked(self) -> Result<Self> {
        let count: usize = self.shape.iter().product();
        if count == self.elements().len() {
            return Ok(self);
        }
        Err(Error::Weights(format!(
            "{} numbers do not make the shape {:?}",
            self.elements().len(),
            self.shape
        )))
    }

    /// The shape, outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The storage type.
    pub fn dtype(&self) -> DType {
        match &self.data {
            Data::Mapped { dtype, .. } => *dtype,
            Data::F32(_) => DType::F32,
            Data::Bf16(_) => DType::Bf16,
            Data::F16(_) => DType::F16,
        }
    }

    /// The numbers, row-major.
    pub fn elements(&self) -> Elements<'_> {
        match &self.data {
            Data::Mapped { file, start, bytes, dtype } => {
                let slice = &file[*start..*start + *bytes];
                match dtype {
                    DType::F32 => Elements::F32(bytemuck::cast_slice(slice)),
                    DType::Bf16 => Elements::Bf16(bytemuck::cast_slice(slice)),
                    DType::F16 => Elements::F16(bytemuck::cast_slice(slice)),
                }
            }
            Data::F32(x) => Elements::F32(x),
            Data::Bf16(x) => Elements::Bf16(x),
            Data::F16(x) => Elements::F16(x),
        }
    }

    /// The same tensor stored as `dtype`, rounded to nearest even.
    pub fn to_dtype(&self, dtype: DType) -> Self {
        if dtype == self.dtype() {
            return self.clone();
        }
        let wide = self.elements().to_f32();
        let data = match dtype {
            DType::F32 => Data::F32(wide.into()),
            DType::Bf16 => {
                let mut out = vec![bf16::ZERO; wide.len()];
                out.convert_from_f32_slice(&wide);
                Data::Bf16(out.into())
            }
            DType::F16 => {
                let mut out = vec![f16::ZERO; wide.len()];
                out.convert_from_f32_slice(&wide);
                Data::F16(out.into())
            }
        };
        Self { shape: self.shape.clone(), data }
    }

    /// All numbers as an f32 tensor on `device`.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.elements().to_f32(), self.shape.as_slice(), device)?)
    }
}

/// Numbers copied out of misaligned bytes.
fn copied<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Arc<[T]> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}
