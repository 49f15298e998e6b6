//! `y = x·Wᵀ + b + Σ s·(x·Aᵀ)·Bᵀ`: a frozen linear map and its low-rank paths (Hu et al. 2021, arXiv 2106.09685,
//! eq. 3).
//!
//! With `z = x·Aᵀ [T, r]` kept from the forward pass, the backward pass is
//! `dz = s·dy·B`, `dA = dzᵀ·x`, `dB = s·dyᵀ·z`, `dx = dy·W + dz·A`. A frozen path contributes to `dx` alone.
//!
//! Shared work is done once: an input is packed once for all maps that read it, a low-rank path shares the pass over
//! the output with its map's product, and maps with the same input write one `dx` (query, key and value; gate and up).
//!
//! [`Forward`] and [`Backward`] collect the parts of a map's product. Whatever adapts the map adds its part before the
//! product is computed.

mod backward;
pub mod decomposed;
mod difference;

use std::borrow::Cow;
use std::cell::OnceCell;

pub use self::backward::{Backward, input_gradient};
use super::Tensor;
use super::frozen_linear::Linear;
use super::gemm::{Operand, Packed, Precision, Segment, sum_of_products};
use super::simd::vectorised;
use super::{host, profile};
use crate::error::{Error, Result};
use crate::weights::Elements;

/// One low-rank path: row-major `A [r, in]` and `B [out, r]`, and the factor `s` of their product.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// `A [r, in]`.
    pub a: &'a [f32],
    /// `B [out, r]`.
    pub b: &'a [f32],
    /// The rank r.
    pub rank: usize,
    /// `s`: `alpha / r`, or `alpha / √r` for rsLoRA.
    pub scale: f32,
}

impl LowRank<'_> {
    /// Checks that the shapes fit `linear`.
    fn check(&self, linear: &Linear) -> Result<()> {
        let (a, b) = (self.rank * linear.inputs(), linear.outputs() * self.rank);
        if (self.a.len(), self.b.len()) == (a, b) {
            return Ok(());
        }
        Err(Error::Model(format!(
            "a low-rank path of {} and {} numbers over a map [{}, {}] at rank {}, which takes {a} and {b}",
            self.a.len(),
            self.b.len(),
            linear.outputs(),
            linear.inputs(),
            self.rank
        )))
    }
}

/// The gradients of a trained low-rank path.
#[derive(Debug)]
pub struct LowRankGradients {
    /// `dA [r, in]`, row-major.
    pub a: Vec<f32>,
    /// `dB [out, r]`, row-major.
    pub b: Vec<f32>,
}

/// An input shared by several maps. It is packed on first use, once for each precision.
pub struct Input {
    x: Tensor,
    packed: ByPrecision,
}

/// The packed forms by precision.
#[derive(Default)]
struct ByPrecision {
    f32: OnceCell<Packed>,
    bf16: OnceCell<Packed>,
    fixed: OnceCell<Packed>,
    split: OnceCell<Packed>,
}

impl ByPrecision {
    fn cell(&self, precision: Precision) -> &OnceCell<Packed> {
        match precision {
            Precision::F32 => &self.f32,
            Precision::Bf16 => &self.bf16,
            Precision::Fixed => &self.fixed,
            Precision::Split => &self.split,
        }
    }
}

impl Input {
    /// Wraps the input `x [T, in]`.
    pub fn new(x: Tensor) -> Self {
        Self { x, packed: ByPrecision::default() }
    }

    /// Returns `x`.
    pub fn tensor(&self) -> &Tensor {
        &self.x
    }

    fn packed(&self, precision: Precision) -> Result<&Packed> {
        let cell = self.packed.cell(precision);
        if let Some(packed) = cell.get() {
            return Ok(packed);
        }
        let packed = profile::timed("linear packing", 0, || pack(&self.x, precision))?;
        Ok(cell.get_or_init(|| packed))
    }
}

/// Returns the precision of the thin products beside a map's own. Fixed point, which has 13 bits for 64 numbers, would
/// lose the small steps of `A` and `B` (see [`narrow`]).
fn thin(linear: &Linear) -> Precision {
    match linear.precision() {
        Precision::Bf16 => Precision::Bf16,
        Precision::F32 | Precision::Fixed | Precision::Split => Precision::F32,
    }
}

/// Returns the precision of the second factor of a low-rank path, which shares its map's pass over the output.
fn riding(linear: &Linear) -> Precision {
    match linear.precision() {
        Precision::F32 | Precision::Fixed => Precision::F32,
        Precision::Bf16 | Precision::Split => Precision::Split,
    }
}

/// Packs a tensor `[T, k]` as the left operand of products.
fn pack(x: &Tensor, precision: Precision) -> Result<Packed> {
    let ((rows, width), x) = (x.shape(), x.numbers());
    Ok(Packed::new(&Operand::by_row(Elements::F32(x), rows, width), precision))
}

/// The forward product of a map, before it is computed.
pub struct Forward<'a> {
    linear: &'a Linear,
    input: &'a Input,
    /// Second factors that share the pass over the output: `s·z [T, r]`, `B [out, r]` and r.
    ups: Vec<(Packed, Cow<'a, [f32]>, usize)>,
    /// `x·Wᵀ [T, out]`, if a decomposed path needed it by itself.
    plain: Option<Vec<f32>>,
    /// The sum of what decomposed paths add to the output `[T, out]`.
    added: Option<Vec<f32>>,
}

impl<'a> Forward<'a> {
    /// Starts the product `x·Wᵀ + b`, without any low-rank path yet.
    pub fn new(linear: &'a Linear, input: &'a Input) -> Self {
        Self { linear, input, ups: Vec::new(), plain: None, added: None }
    }

    /// Returns the map.
    pub fn linear(&self) -> &'a Linear {
        self.linear
    }

    /// Returns the map's input `x [T, in]`.
    pub fn input(&self) -> &'a Tensor {
        self.input.tensor()
    }

    /// Adds a path over `x` or, under dropout, over the `masked` input. Returns `z [T, r]`, which the backward pass
    /// needs.
    ///
    /// # Errors
    /// Returns an error if the shapes do not fit.
    pub fn low_rank(&mut self, path: LowRank<'a>, masked: Option<&Tensor>) -> Result<Tensor> {
        let z = self.inner(path, masked)?;
        let up = scaled(&z, path.scale, path.rank, riding(self.linear));
        self.ups.push((up, Cow::Borrowed(path.b), path.rank));
        Tensor::new(z, (self.input().shape().0, path.rank))
    }

    /// Computes `z = x·Aᵀ [T, r]`, of the `masked` input under dropout.
    fn inner(&self, path: LowRank, masked: Option<&Tensor>) -> Result<Vec<f32>> {
        let (linear, LowRank { a, rank, .. }) = (self.linear, path);
        path.check(linear)?;
        let rows = self.input().shape().0;
        let flop = 2 * rows * rank * linear.inputs();
        profile::timed("low-rank forward", flop, || -> Result<_> {
            Ok(match masked {
                Some(masked) => narrow(&pack(masked, thin(linear))?, a, rank, Side::Rows),
                None => narrow(self.input.packed(thin(linear))?, a, rank, Side::Rows),
            })
        })
    }

    /// Returns `y [T, out]`.
    ///
    /// # Errors
    /// Returns an error if the shapes do not fit.
    pub fn finish(self) -> Result<Tensor> {
        let Self { linear, input, ups, plain, added } = self;
        let ((rows, _), packed) = (input.tensor().shape(), input.packed(linear.precision())?);
        let ranks: usize = ups.iter().map(|(_, _, rank)| rank).sum();
        let flop = linear.flop(rows) + 2 * rows * ranks * linear.outputs();
        let y = profile::timed("linear forward", flop, || {
            let riding = ups.iter().map(|(z, b, rank)| Segment {
                a: z,
                b: Operand::by_row(Elements::F32(b), linear.outputs(), *rank),
            });
            let mut y = match plain {
                None => linear.products(packed, riding.collect()),
                Some(plain) => linear.completed(plain, &riding.collect::<Vec<_>>()),
            };
            added.iter().for_each(|added| add(&mut y, added, linear.outputs()));
            y
        });
        Tensor::new(y, (rows, linear.outputs()))
    }
}

/// Adds `part` to `sum`, both `[T, columns]`.
fn add(sum: &mut [f32], part: &[f32], columns: usize) {
    host::update_rows(sum, columns, |row, out| {
        super::simd::add_scaled(out, &part[row * columns..(row + 1) * columns], 1.0);
    });
}

/// The memory layout of a thin matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// `[r, k]`, like `A`.
    Rows,
    /// `[k, r]`, like `B`.
    Columns,
}

/// Multiplies `x [T, k]` by a thin f32 matrix; returns `[T, r]`. Where packing rounded `x` to bf16, the thin matrix is
/// split into two bf16 terms that hold 16 of its 24 bits, at the cost of one panel, so that its small steps are not
/// lost to rounding.
fn narrow(x: &Packed, thin: &[f32], rank: usize, side: Side) -> Vec<f32> {
    let k = thin.len() / rank.max(1);
    let operand = |data, rank| match side {
        Side::Rows => Operand::by_row(Elements::F32(data), rank, k),
        Side::Columns => Operand::by_column(Elements::F32(data), k, rank),
    };
    if !x.rounded() {
        return sum_of_products(&[Segment { a: x, b: operand(thin, rank) }]);
    }
    let run = if side == Side::Rows { thin.len() } else { rank }.max(1);
    let both = sum_of_products(&[Segment { a: x, b: operand(&split(thin, run), 2 * rank) }]);
    host::build_rows(both.len() / (2 * rank.max(1)), rank, |row, out| {
        let (high, low) = both[2 * rank * row..2 * rank * (row + 1)].split_at(rank);
        out.iter_mut().zip(high.iter().zip(low)).for_each(|(out, (high, low))| *out = high + low);
    })
}

/// Follows each `run` of numbers with the remainders of rounding them to bf16.
fn split(numbers: &[f32], run: usize) -> Vec<f32> {
    let mut out = vec![0.0; 2 * numbers.len()];
    for (from, to) in numbers.chunks_exact(run).zip(out.chunks_exact_mut(2 * run)) {
        let (high, low) = to.split_at_mut(run);
        high.copy_from_slice(from);
        remainders(from, low);
    }
    out
}

vectorised! {
    /// Writes what rounding to bf16 takes from `x`.
    fn remainders(x: &[f32], low: &mut [f32]) {
        let _ = FMA;
        for (x, low) in x.iter().zip(low) {
            // To nearest, ties to even. What is not finite stays so, and so does its remainder.
            let bits = x.to_bits();
            let near = f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000);
            *low = if x.is_nan() { *x } else { x - near };
        }
    }
}

/// Packs `s·z [T, r]` as a left operand; the scale is applied to the small factor.
fn scaled(z: &[f32], scale: f32, rank: usize, precision: Precision) -> Packed {
    let rows = z.len() / rank.max(1);
    let scaled = host::build_rows(rows, rank, |row, out| {
        super::simd::scale_into(out, &z[rank * row..rank * (row + 1)], scale);
    });
    Packed::new(&Operand::by_row(Elements::F32(&scaled), rows, rank), precision)
}

#[cfg(test)]
mod tests;
