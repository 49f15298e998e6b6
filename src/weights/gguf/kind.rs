//! ggml's storage types, by number, name, and size of a block.

use std::fmt;

use crate::weights::{BlockKind, DType};

/// A storage type of ggml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgmlType(&'static Known);

#[derive(Debug, PartialEq, Eq)]
struct Known {
    /// ggml's number of the type.
    id: u32,
    name: &'static str,
    /// Numbers in a block.
    numbers: usize,
    /// Bytes of a block.
    bytes: usize,
}

/// `type_traits` of ggml.c; the missing numbers were removed from ggml.
const KNOWN: &[Known] = &[
    known(0, "F32", 1, 4),
    known(1, "F16", 1, 2),
    known(2, "Q4_0", 32, 18),
    known(3, "Q4_1", 32, 20),
    known(6, "Q5_0", 32, 22),
    known(7, "Q5_1", 32, 24),
    known(8, "Q8_0", 32, 34),
    known(9, "Q8_1", 32, 36),
    known(10, "Q2_K", 256, 84),
    known(11, "Q3_K", 256, 110),
    known(12, "Q4_K", 256, 144),
    known(13, "Q5_K", 256, 176),
    known(14, "Q6_K", 256, 210),
    known(15, "Q8_K", 256, 292),
    known(16, "IQ2_XXS", 256, 66),
    known(17, "IQ2_XS", 256, 74),
    known(18, "IQ3_XXS", 256, 98),
    known(19, "IQ1_S", 256, 50),
    known(20, "IQ4_NL", 32, 18),
    known(21, "IQ3_S", 256, 110),
    known(22, "IQ2_S", 256, 82),
    known(23, "IQ4_XS", 256, 136),
    known(24, "I8", 1, 1),
    known(25, "I16", 1, 2),
    known(26, "I32", 1, 4),
    known(27, "I64", 1, 8),
    known(28, "F64", 1, 8),
    known(29, "IQ1_M", 256, 56),
    known(30, "BF16", 1, 2),
    known(34, "TQ1_0", 256, 54),
    known(35, "TQ2_0", 256, 66),
    known(39, "MXFP4", 32, 17),
];

const fn known(id: u32, name: &'static str, numbers: usize, bytes: usize) -> Known {
    Known { id, name, numbers, bytes }
}

impl GgmlType {
    /// The type of this number.
    pub fn by_id(id: u32) -> Option<Self> {
        KNOWN.iter().find(|known| known.id == id).map(Self)
    }

    /// The type of this name (`Q4_K`).
    pub fn by_name(name: &str) -> Option<Self> {
        KNOWN.iter().find(|known| known.name == name).map(Self)
    }

    /// ggml's number of the type.
    pub fn id(self) -> u32 {
        self.0.id
    }

    /// Its name (`Q4_K`).
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Bytes of this many numbers; `None` if they are not whole blocks, or on overflow.
    pub fn bytes(self, numbers: usize) -> Option<usize> {
        let whole = numbers.is_multiple_of(self.0.numbers);
        whole.then(|| (numbers / self.0.numbers).checked_mul(self.0.bytes)).flatten()
    }

    /// Numbers in a block.
    pub fn block(self) -> usize {
        self.0.numbers
    }

    /// The type of single numbers, if it is supported for computing.
    pub fn plain(self) -> Option<DType> {
        match self.0.name {
            "F32" => Some(DType::F32),
            "F16" => Some(DType::F16),
            "BF16" => Some(DType::Bf16),
            _ => None,
        }
    }

    /// The quantisation, if it is supported for computing.
    pub fn blocks(self) -> Option<BlockKind> {
        BlockKind::ALL.iter().copied().find(|kind| kind.name() == self.0.name)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}
