//! Numbers in their storage types.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use super::Blocks;

/// Storage types of frozen weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl DType {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Its name in configurations and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// A borrowed slice of numbers.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// Quantised blocks.
    Blocks(Blocks<'a>),
}

impl<'a> Elements<'a> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Bf16(x) => x.len(),
            Self::F16(x) => x.len(),
            Self::Blocks(x) => x.len(),
        }
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers `from..to`.
    ///
    /// # Panics
    /// If the range is out of bounds.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Elements<'a> {
        match self {
            Self::F32(x) => Self::F32(&x[range]),
            Self::Bf16(x) => Self::Bf16(&x[range]),
            Self::F16(x) => Self::F16(&x[range]),
            Self::Blocks(x) => Self::Blocks(x.slice(range)),
        }
    }

    /// Number `i`, widened to f32.
    ///
    /// # Panics
    /// If `i` is out of bounds.
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Self::F32(x) => x[i],
            Self::Bf16(x) => x[i].to_f32(),
            Self::F16(x) => x[i].to_f32(),
            Self::Blocks(x) => {
                let mut one = [0.0];
                x.read(i, &mut one);
                one[0]
            }
        }
    }

    /// All numbers, widened to f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.widen_into(&mut out);
        out
    }

    /// Widens all numbers into `out`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn widen_into(&self, out: &mut [f32]) {
        use half::slice::HalfFloatSliceExt;
        match self {
            Self::F32(x) => out.copy_from_slice(x),
            Self::Bf16(x) => x.convert_to_f32_slice(out),
            Self::F16(x) => x.convert_to_f32_slice(out),
            Self::Blocks(x) => {
                assert_eq!(out.len(), x.len(), "numbers to dequantise");
                x.read(0, out);
            }
        }
    }
}
