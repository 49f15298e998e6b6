//! Writes the GGUF container, version 3, as far as adapters and merged models need it
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use half::{bf16, f16};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::weights::{BlockKind, DType, quantise};

/// Alignment of the tensor data and of every tensor.
pub(super) const ALIGNMENT: usize = 32;
/// Numbers in a block of Q8_0.
pub(super) const Q8_BLOCK: usize = BlockKind::Q8_0.block().0;

/// Storage types that are written; llama.cpp computes with all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum GgufType {
    /// 32-bit floats.
    #[default]
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// Blocks of 32 numbers in 8 bits with a common scale.
    Q8_0,
    /// Blocks of 32 numbers in 5 bits with a common scale.
    Q5_0,
    /// Blocks of 256 numbers in 4 bits, with scales and minima of 32.
    Q4K,
    /// Blocks of 256 numbers in 5 bits, with scales and minima of 32.
    Q5K,
    /// Blocks of 256 numbers in 6 bits, with scales of 16.
    Q6K,
}

impl GgufType {
    /// The types of adapters.
    pub const OF_ADAPTERS: [Self; 4] = [Self::F32, Self::F16, Self::BF16, Self::Q8_0];

    /// ggml's number of the type.
    fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q5_0 => 6,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::BF16 => 30,
        }
    }

    /// Whether its numbers are stored one by one or in blocks.
    pub(super) fn layout(self) -> std::result::Result<DType, BlockKind> {
        match self {
            Self::F32 => Ok(DType::F32),
            Self::F16 => Ok(DType::F16),
            Self::BF16 => Ok(DType::Bf16),
            Self::Q5_0 => Err(BlockKind::Q5_0),
            Self::Q8_0 => Err(BlockKind::Q8_0),
            Self::Q4K => Err(BlockKind::Q4K),
            Self::Q5K => Err(BlockKind::Q5K),
            Self::Q6K => Err(BlockKind::Q6K),
        }
    }

    /// A row's length must be a multiple of this.
    pub(super) fn block(self) -> usize {
        self.layout().map_or_else(|kind| kind.block().0, |_| 1)
    }

    /// Bytes of this many numbers, which must be whole blocks.
    pub(super) fn bytes(self, numbers: usize) -> usize {
        match self.layout() {
            Ok(dtype) => numbers * dtype.size(),
            Err(kind) => numbers / kind.block().0 * kind.block().1,
        }
    }

    /// The largest magnitude that it can store.
    pub(super) fn limit(self) -> f32 {
        match self {
            Self::F32 | Self::BF16 => f32::MAX,
            Self::F16 => f16::MAX.to_f32(),
            Self::Q8_0 => f16::MAX.to_f32() * 127.0,
            Self::Q5_0 | Self::Q4K | Self::Q5K | Self::Q6K => f16::MAX.to_f32() * 15.0,
        }
    }

    /// The numbers in their storage type, rounded to nearest.
    ///
    /// # Errors
    /// If they are not whole blocks.
    pub(super) fn encode(self, numbers: &[f32]) -> Result<Vec<u8>> {
        Ok(match self.layout() {
            Ok(DType::F32) => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Ok(DType::F16) => numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            Ok(DType::Bf16) => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            Err(kind) => {
                let mut bytes = vec![0; self.bytes(numbers.len())];
                quantise(kind, numbers, &mut bytes)?;
                bytes
            }
        })
    }
}

impl fmt::Display for GgufType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q5_0 => "q5_0",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        })
    }
}

impl FromStr for GgufType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::OF_ADAPTERS.into_iter().find(|kind| text.eq_ignore_ascii_case(&kind.to_string())).ok_or_else(
            || {
                Error::Config(format!(
                    "{text:?} is not a storage type of a GGUF adapter; write f32, f16, bf16 or q8_0"
                ))
            },
        )
    }
}

/// A value of the file's metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    F32(f32),
    U32(u32),
    Flag(bool),
    Texts(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
}

impl Value {
    /// The format's number of the type.
    fn id(&self) -> u32 {
        match self {
            Self::U32(_) => 4,
            Self::F32(_) => 6,
            Self::Flag(_) => 7,
            Self::Text(_) => 8,
            Self::Texts(_) | Self::F32s(_) | Self::I32s(_) => 9,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        let head = |out: &mut Vec<u8>, kind: u32, count: usize| {
            out.extend(kind.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
        };
        match self {
            Self::Text(text) => put_text(out, text),
            Self::F32(number) => out.extend(number.to_le_bytes()),
            Self::U32(number) => out.extend(number.to_le_bytes()),
            Self::Flag(flag) => out.push(u8::from(*flag)),
            Self::Texts(texts) => {
                head(out, 8, texts.len());
                texts.iter().for_each(|text| put_text(out, text));
            }
            Self::F32s(numbers) => {
                head(out, 6, numbers.len());
                numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
            }
            Self::I32s(numbers) => {
                head(out, 5, numbers.len());
                numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
            }
        }
    }
}

/// A row-major tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    pub kind: GgufType,
}

impl Planned {
    pub fn bytes(&self) -> usize {
        self.kind.bytes(self.shape.iter().product())
    }
}

/// Writes a file of `tensors`; `fill` writes their bytes one after the other.
pub(super) fn write<W: Write + ?Sized>(
    out: &mut W,
    metadata: &[(String, Value)],
    tensors: &[Planned],
    mut fill: impl FnMut(usize, &mut W) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut header, key);
        header.extend(value.id().to_le_bytes());
        value.put(&mut header);
    }
    let mut offset = 0;
    for tensor in tensors {
        put_text(&mut header, &tensor.name);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        // ggml counts dimensions from the innermost.
        tensor.shape.iter().rev().for_each(|size| header.extend((*size as u64).to_le_bytes()));
        header.extend(tensor.kind.id().to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    out.write_all(&header)?;
    for (index, tensor) in tensors.iter().enumerate() {
        fill(index, out)?;
        let bytes = tensor.bytes();
        out.write_all(&[0; ALIGNMENT][..bytes.next_multiple_of(ALIGNMENT) - bytes])?;
    }
    Ok(())
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q8_0_is_ggmls() {
        // gguf.quants.Q8_0.quantize_blocks of (i − 16)/8 for i in 0..32: scale 2/127 as f16 is 0x2408.
        let block: Vec<f32> = (0..32).map(|i| (i as f32 - 16.0) / 8.0).collect();
        let bytes = GgufType::Q8_0.encode(&block).unwrap();
        assert_eq!((bytes.len(), &bytes[..2]), (34, &[0x08, 0x24][..]));
        assert_eq!(bytes[2..6].iter().map(|b| *b as i8).collect::<Vec<_>>(), [-127, -119, -111, -103]);
        assert_eq!(GgufType::Q8_0.encode(&[0.0; 64]).unwrap(), [0; 68]);
        // Every number is restored to within half a step.
        let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        for (byte, x) in bytes[2..].iter().zip(&block) {
            assert!((f32::from(*byte as i8) * scale - x).abs() <= 0.51 * scale);
        }
    }

    #[test]
    fn types_are_read_by_name() {
        assert_eq!("Q8_0".parse::<GgufType>().unwrap(), GgufType::Q8_0);
        assert!("q4_k".parse::<GgufType>().unwrap_err().to_string().contains("f32, f16, bf16 or q8_0"));
    }
}
