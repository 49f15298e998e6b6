//! One frozen tensor.

use std::ops::Range;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

use super::{BlockKind, Blocks, DType, Elements};
use crate::error::{Error, Result};

/// A tensor that never changes and has no gradient.
#[derive(Clone, Debug)]
pub struct FrozenWeight {
    shape: Vec<usize>,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    /// Bytes of a mapped file; length and alignment were checked.
    Mapped {
        file: Arc<Mmap>,
        start: usize,
        bytes: usize,
        dtype: DType,
    },
    /// Quantised blocks, in a mapped file or in memory.
    Blocks {
        bytes: BlockBytes,
        kind: BlockKind,
    },
    F32(Arc<[f32]>),
    Bf16(Arc<[bf16]>),
    F16(Arc<[f16]>),
}

#[derive(Clone, Debug)]
enum BlockBytes {
    Mapped { file: Arc<Mmap>, range: Range<usize> },
    Owned(Arc<[u8]>),
}

impl BlockBytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped { file, range } => &file[range.clone()],
            Self::Owned(bytes) => bytes,
        }
    }
}

impl FrozenWeight {
    /// A tensor of f32 numbers.
    ///
    /// # Errors
    /// If the length of `numbers` does not match the shape.
    pub fn from_f32(values: Vec<f32>, shape: &[usize]) -> Result<Self> {
        let weight = Self { shape: shape.to_vec(), data: Data::F32(values.into()) };
        weight.checked()
    }

    /// A tensor in a mapped file: `bytes` bytes from `start`. A misaligned one is copied.
    ///
    /// # Errors
    /// If the bytes are outside the file, or their number does not match the shape.
    pub fn from_file(
        file: &Arc<Mmap>,
        start: usize,
        bytes: usize,
        dtype: DType,
        shape: &[usize],
    ) -> Result<Self> {
        let slice = slice_of(file, start, bytes)?;
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

    /// A tensor of quantised blocks in a mapped file: `bytes` bytes from `start`, rows of whole blocks.
    ///
    /// # Errors
    /// As [`FrozenWeight::from_file`].
    pub fn from_blocks_of_file(
        file: &Arc<Mmap>,
        start: usize,
        bytes: usize,
        kind: BlockKind,
        shape: &[usize],
    ) -> Result<Self> {
        slice_of(file, start, bytes)?;
        let bytes = BlockBytes::Mapped { file: file.clone(), range: start..start + bytes };
        Self::of_blocks(bytes, kind, shape)
    }

    /// A tensor of quantised blocks in memory, rows of whole blocks.
    ///
    /// # Errors
    /// If the number of bytes does not match the shape.
    pub fn from_blocks(bytes: Arc<[u8]>, kind: BlockKind, shape: &[usize]) -> Result<Self> {
        Self::of_blocks(BlockBytes::Owned(bytes), kind, shape)
    }

    fn of_blocks(bytes: BlockBytes, kind: BlockKind, shape: &[usize]) -> Result<Self> {
        let (numbers, size) = kind.block();
        let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let whole = shape.last().is_some_and(|columns| columns.is_multiple_of(numbers));
        if !whole || count.and_then(|n| (n / numbers).checked_mul(size)) != Some(bytes.get().len()) {
            return Err(Error::Weights(format!(
                "a tensor of shape {shape:?} in {} has {} bytes",
                kind.name(),
                bytes.get().len()
            )));
        }
        Ok(Self { shape: shape.to_vec(), data: Data::Blocks { bytes, kind } })
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

    /// The storage type; `None` for quantised blocks.
    pub fn dtype(&self) -> Option<DType> {
        match &self.data {
            Data::Mapped { dtype, .. } => Some(*dtype),
            Data::F32(_) => Some(DType::F32),
            Data::Bf16(_) => Some(DType::Bf16),
            Data::F16(_) => Some(DType::F16),
            Data::Blocks { .. } => None,
        }
    }

    /// The type of its quantised blocks, if it is quantised.
    pub fn block_kind(&self) -> Option<BlockKind> {
        match &self.data {
            Data::Blocks { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// The name of its storage type: `bf16`, `Q4_K`.
    pub fn storage(&self) -> &'static str {
        match (&self.data, self.dtype()) {
            (Data::Blocks { kind, .. }, _) => kind.name(),
            (_, dtype) => dtype.map_or("?", DType::name),
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
            Data::Blocks { bytes, kind } => Elements::Blocks(Blocks::new(*kind, bytes.get())),
        }
    }

    /// The first NaN or infinity, if there is one.
    pub fn first_non_finite(&self) -> Option<f32> {
        super::finite::first_non_finite(&self.elements())
    }

    /// The bytes as they are stored, little-endian.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Mapped { file, start, bytes, .. } => &file[*start..*start + *bytes],
            Data::Blocks { bytes, .. } => bytes.get(),
            Data::F32(x) => bytemuck::cast_slice(x),
            Data::Bf16(x) => bytemuck::cast_slice(x),
            Data::F16(x) => bytemuck::cast_slice(x),
        }
    }

    /// A tensor of the same shape and storage with other bytes.
    ///
    /// # Errors
    /// If the number of bytes differs.
    pub fn with_bytes(&self, bytes: Vec<u8>) -> Result<Self> {
        if bytes.len() != self.bytes().len() {
            return Err(Error::Weights(format!("{} bytes in place of {}", bytes.len(), self.bytes().len())));
        }
        let data = match (&self.data, self.dtype()) {
            (Data::Blocks { kind, .. }, _) => {
                Data::Blocks { bytes: BlockBytes::Owned(bytes.into()), kind: *kind }
            }
            (_, Some(DType::Bf16)) => Data::Bf16(copied(&bytes)),
            (_, Some(DType::F16)) => Data::F16(copied(&bytes)),
            _ => Data::F32(copied(&bytes)),
        };
        Ok(Self { shape: self.shape.clone(), data })
    }

    /// The same tensor stored as `dtype`, rounded to nearest even. Pages of the file that were read only for this are
    /// released.
    pub fn to_dtype(&self, dtype: DType) -> Self {
        if Some(dtype) == self.dtype() {
            return self.clone();
        }
        let from = self.elements();
        let data = match dtype {
            DType::F32 => Data::F32(converted(from, 0.0, |wide, out| out.copy_from_slice(wide))),
            DType::Bf16 => {
                Data::Bf16(converted(from, bf16::ZERO, |wide, out| out.convert_from_f32_slice(wide)))
            }
            DType::F16 => Data::F16(converted(from, f16::ZERO, |wide, out| out.convert_from_f32_slice(wide))),
        };
        self.release();
        Self { shape: self.shape.clone(), data }
    }

    /// Releases the pages of a mapped tensor; the system reads them from the file again when they are needed.
    pub fn release(&self) {
        #[cfg(unix)]
        {
            let (file, start, bytes) = match &self.data {
                Data::Mapped { file, start, bytes, .. } => (file, *start, *bytes),
                Data::Blocks { bytes: BlockBytes::Mapped { file, range }, .. } => {
                    (file, range.start, range.len())
                }
                _ => return,
            };
            // SAFETY: the map is a read-only one of a file, so its pages hold what the file holds, before and after.
            let advised = unsafe { file.unchecked_advise_range(UncheckedAdvice::DontNeed, start, bytes) };
            // If the system refuses, the pages stay: nothing depends on it.
            drop(advised);
        }
    }
}

/// The bytes of a mapped file that a tensor claims.
fn slice_of(file: &Mmap, start: usize, bytes: usize) -> Result<&[u8]> {
    start
        .checked_add(bytes)
        .and_then(|end| file.get(start..end))
        .ok_or_else(|| Error::Weights(format!("a tensor's {bytes} bytes at {start} lie outside its file")))
}

/// All numbers as `T`s, widened in small parts, so that no second copy of the whole exists.
fn converted<T: Copy>(from: Elements, zero: T, narrow: impl Fn(&[f32], &mut [T])) -> Arc<[T]> {
    const PART: usize = 1 << 16;
    let mut out: Arc<[T]> = std::iter::repeat_n(zero, from.len()).collect();
    let mut wide = vec![0.0; PART.min(from.len())];
    for (i, out) in Arc::get_mut(&mut out).into_iter().flat_map(|out| out.chunks_mut(PART)).enumerate() {
        let wide = &mut wide[..out.len()];
        from.slice(i * PART..i * PART + out.len()).widen_into(wide);
        narrow(wide, out);
    }
    out
}

/// Numbers copied out of misaligned bytes.
fn copied<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Arc<[T]> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}
