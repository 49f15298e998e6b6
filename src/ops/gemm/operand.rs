//! The operands of a product, and what they are rounded to.

use super::isa::Isa;
use crate::weights::Elements;

/// A strided view of one operand: `lanes` rows of `A` (or columns of `B`), each `k` long.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    pub(super) data: Elements<'a>,
    pub(super) lanes: usize,
    pub(super) k: usize,
    pub(super) lane_stride: usize,
    pub(super) k_stride: usize,
}

impl<'a> Operand<'a> {
    /// A row-major `[lanes, k]` matrix: the rows are the lanes. An activation as `A`, or a weight `[out, in]` as `B` of
    /// `x·Wᵀ`.
    ///
    /// # Panics
    /// If the slice is shorter than the shape; shapes are checked where tensors are born.
    pub fn by_row(data: Elements<'a>, lanes: usize, k: usize) -> Self {
        Self::strided(data, lanes, k, k, 1)
    }

    /// A row-major `[k, lanes]` matrix: the columns are the lanes. A weight `[out, in]` as `B` of `dy·W`.
    ///
    /// # Panics
    /// As [`Operand::by_row`].
    pub fn by_column(data: Elements<'a>, k: usize, lanes: usize) -> Self {
        Self::strided(data, lanes, k, 1, lanes)
    }

    /// Any strides, in elements.
    ///
    /// # Panics
    /// If an index of the view would lie outside the slice.
    pub fn strided(data: Elements<'a>, lanes: usize, k: usize, lane_stride: usize, k_stride: usize) -> Self {
        if lanes > 0 && k > 0 {
            let last = (lanes - 1) * lane_stride + (k - 1) * k_stride;
            assert!(last < data.len(), "operand [{lanes}, {k}] reaches {last} of {}", data.len());
        }
        Self { data, lanes, k, lane_stride, k_stride }
    }
}

/// What the operands are rounded to on their way into the kernel. Sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Products of f32.
    F32,
    /// Products of bf16, where the processor multiplies them; elsewhere as [`Precision::F32`]. Rounding both operands
    /// puts the product of Gaussian numbers 2.4e-3 off (‖error‖ / ‖product‖), rounding one of them 1.7e-3.
    Bf16,
    /// Products of 16-bit fixed point, 64 numbers of `k` to a scale, where the processor multiplies that, nearly as
    /// fast as bf16 pairs; elsewhere as [`Precision::F32`]. The product of Gaussian numbers is 1.9e-4 off; rounding
    /// moves no operand by more than 7e-4 of its norm.
    Fixed,
    /// Products of f32 in two bf16 terms each, which hold 16 bits of 24, where the processor multiplies tiles of bf16;
    /// elsewhere as [`Precision::F32`]. It costs three products of bf16, and rides through the output with them.
    Split,
}

impl Precision {
    /// The precision a weight of this storage is multiplied in. Quantised weights are not bf16 numbers, and need not be
    /// rounded to such: fixed point costs as much and is nearer to their product in f32.
    pub fn of(weight: &Elements) -> Self {
        match weight {
            Elements::Bf16(_) => Self::Bf16,
            Elements::Blocks(_) if Isa::detected() >= Isa::Avx512Vnni => Self::Fixed,
            _ => Self::F32,
        }
    }
}

/// Which operand a panel is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// `A`.
    Left,
    /// `B`.
    Right,
}

/// Number `k` of a lane, widened.
pub(super) fn load(from: &Operand, lane: usize, k: usize) -> f32 {
    from.data.get(lane * from.lane_stride + k * from.k_stride)
}
