//! The operands of a product, and the precision they are rounded to.

use super::isa::Isa;
use crate::weights::Elements;

/// A strided view of one operand: `lanes` rows of `A` (or columns of `B`), each of length `k`.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    pub(super) data: Elements<'a>,
    pub(super) lanes: usize,
    pub(super) k: usize,
    pub(super) lane_stride: usize,
    pub(super) k_stride: usize,
}

impl<'a> Operand<'a> {
    /// Views a row-major `[lanes, k]` matrix, whose rows are the lanes: an activation as `A`, or a weight `[out, in]`
    /// as `B` of `x·Wᵀ`.
    ///
    /// # Panics
    /// Panics if the slice is shorter than the shape; shapes are checked where tensors are created.
    pub fn by_row(data: Elements<'a>, lanes: usize, k: usize) -> Self {
        Self::strided(data, lanes, k, k, 1)
    }

    /// Views a row-major `[k, lanes]` matrix, whose columns are the lanes: a weight `[out, in]` as `B` of `dy·W`.
    ///
    /// # Panics
    /// Same as [`Operand::by_row`].
    pub fn by_column(data: Elements<'a>, k: usize, lanes: usize) -> Self {
        Self::strided(data, lanes, k, 1, lanes)
    }

    /// Views the slice with any strides, in elements.
    ///
    /// # Panics
    /// Panics if an index of the view would lie outside the slice.
    pub fn strided(data: Elements<'a>, lanes: usize, k: usize, lane_stride: usize, k_stride: usize) -> Self {
        if lanes > 0 && k > 0 {
            let last = (lanes - 1) * lane_stride + (k - 1) * k_stride;
            assert!(last < data.len(), "operand [{lanes}, {k}] reaches {last} of {}", data.len());
        }
        Self { data, lanes, k, lane_stride, k_stride }
    }

    /// Returns the number of lanes, and the length of each.
    pub fn shape(&self) -> (usize, usize) {
        (self.lanes, self.k)
    }
}

/// The precision to which operands are rounded for the kernel. Sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Multiplies f32.
    F32,
    /// Multiplies bf16 where the processor supports it; with AVX2 or VNNI alone the same as [`Precision::Fixed`], elsewhere
    /// the same as [`Precision::F32`]. Rounding both operands to bf16 gives the product of Gaussian numbers an error of
    /// 2.4e-3 (‖error‖ / ‖product‖), rounding one of them 1.7e-3.
    Bf16,
    /// Multiplies 16-bit fixed point, with one scale per 64 numbers of `k`, where the processor supports it, nearly as
    /// fast as bf16 pairs; elsewhere the same as [`Precision::F32`]. The product of Gaussian numbers has an error of
    /// 1.9e-4; rounding moves no operand by more than 7e-4 of its norm.
    Fixed,
    /// Multiplies f32 split into two bf16 terms, which hold 16 of its 24 bits, where the processor multiplies bf16
    /// tiles; elsewhere the same as [`Precision::F32`]. It costs three bf16 products, and shares their pass over the
    /// output.
    Split,
}

impl Precision {
    /// Returns the precision in which a weight of this storage is multiplied. Quantised weights are not bf16 numbers
    /// and need not be rounded to bf16: fixed point costs as much and is closer to their product in f32.
    pub fn of(weight: &Elements) -> Self {
        match weight {
            Elements::Bf16(_) => Self::Bf16,
            Elements::Blocks(_) if Isa::detected().has_fixed() => Self::Fixed,
            _ => Self::F32,
        }
    }
}

/// The operand that a panel belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// `A`.
    Left,
    /// `B`.
    Right,
}

/// Returns element `k` of a lane, widened to f32.
pub(super) fn load(from: &Operand, lane: usize, k: usize) -> f32 {
    from.data.get(lane * from.lane_stride + k * from.k_stride)
}
