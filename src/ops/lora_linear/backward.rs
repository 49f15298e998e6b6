//! The backward product of a map with its low-rank paths.

use std::borrow::Cow;

use super::{LowRank, LowRankGradients, Side, narrow, pack, riding, scaled, thin};
use crate::error::{Error, Result};
use crate::ops::Tensor;
use crate::ops::frozen_linear::Linear;
use crate::ops::gemm::{Operand, Packed, Precision, Segment, add_products, gemm, sum_of_products};
use crate::ops::gradient::Gradient;
use crate::ops::{host, profile};
use crate::weights::Elements;

/// The backward product of a map, before it is computed.
pub struct Backward<'a> {
    pub(super) linear: &'a Linear,
    /// `dy [T, out]`.
    pub(super) dy: &'a Tensor,
    packed: Packed,
    /// `dy` packed for the thin products, if they need a different precision.
    beside: Option<Packed>,
    pub(super) paths: Vec<PathBack<'a>>,
    /// Factors of `dy`, by output, in the map's own part of `dx`, if they are not all 1.
    pub(super) gain: Option<Vec<f32>>,
    /// Further parts of `dx`: a gradient of the outputs `[T, out]`, packed, and the dropout factors `[T, in]`.
    pub(super) masked: Vec<(Packed, &'a Tensor)>,
}

/// A path's contribution to `dx`.
pub(super) struct PathBack<'a> {
    /// `s·dy·B [T, r]`.
    pub(super) dz: Packed,
    /// `A [r, in]`.
    pub(super) a: Cow<'a, [f32]>,
    pub(super) rank: usize,
    /// The dropout factors `[T, in]`, if there were any.
    pub(super) mask: Option<&'a Tensor>,
}

impl<'a> Backward<'a> {
    /// Starts the product `dy·W` for `dy [T, out]`, without any low-rank path yet.
    ///
    /// # Errors
    /// Returns an error if the shapes do not fit.
    pub fn new(linear: &'a Linear, dy: &'a Tensor) -> Result<Self> {
        let packed = profile::timed("linear packing", 0, || pack(dy, linear.precision()))?;
        Ok(Self { linear, dy, packed, beside: None, paths: Vec::new(), gain: None, masked: Vec::new() })
    }

    /// Returns the map.
    pub fn linear(&self) -> &'a Linear {
        self.linear
    }

    /// Adds a path's part `dz·A` of `dx`, times the dropout factors `mask [T, in]` if there were any. Returns `dz =
    /// s·dy·B [T, r]`.
    ///
    /// # Errors
    /// Returns an error if the shapes do not fit.
    pub fn low_rank(&mut self, path: LowRank<'a>, mask: Option<&'a Tensor>) -> Result<Vec<f32>> {
        let dz = self.through_b(path)?;
        let (LowRank { a, rank, .. }, precision) = (path, riding(self.linear));
        self.paths.push(PathBack { dz: scaled(&dz, 1.0, rank, precision), a: Cow::Borrowed(a), rank, mask });
        Ok(dz)
    }

    /// Computes `s·dy·B [T, r]`.
    pub(super) fn through_b(&mut self, path: LowRank) -> Result<Vec<f32>> {
        let (linear, LowRank { b, rank, scale, .. }) = (self.linear, path);
        path.check(linear)?;
        if self.beside.is_none() && thin(linear) != linear.precision() {
            self.beside = Some(profile::timed("linear packing", 0, || pack(self.dy, thin(linear)))?);
        }
        let dy = self.beside.as_ref().unwrap_or(&self.packed);
        let mut dz = profile::timed("low-rank backward", 2 * dy.rows() * rank * linear.outputs(), || {
            narrow(dy, b, rank, Side::Columns)
        });
        host::scale(&mut dz, scale);
        Ok(dz)
    }

    /// `dy` times a factor for each output, packed.
    pub(super) fn times(&self, factors: &[f32]) -> Result<Packed> {
        let ((rows, columns), dy) = (self.dy.shape(), self.dy.numbers());
        let scaled = host::build_rows(rows, columns, |row, out| {
            let dy = &dy[row * columns..(row + 1) * columns];
            out.iter_mut().zip(dy.iter().zip(factors)).for_each(|(out, (dy, g))| *out = dy * g);
        });
        Ok(Packed::new(&Operand::by_row(Elements::F32(&scaled), rows, columns), self.linear.precision()))
    }

    /// Returns itself with the factors of decomposed paths in the map's own part of `dx`.
    fn settled(mut self) -> Result<Self> {
        if let Some(gain) = self.gain.take() {
            self.packed = self.times(&gain)?;
        }
        Ok(self)
    }

    /// Returns `dA = dzᵀ·x [r, in]` and `dB = s·dyᵀ·z [out, r]` of a path. The arguments are its own input `x [T, in]`
    /// (masked under dropout), `z [T, r]` from the forward pass, and `dz [T, r]`. The long sides are vectorised.
    ///
    /// # Errors
    /// Returns an error if the shapes do not fit.
    pub fn gradients(
        &self,
        path: LowRank,
        (x, z): (&Tensor, &Tensor),
        dz: &[f32],
    ) -> Result<LowRankGradients> {
        let (x, z, dy, rank) = (x.numbers(), z.numbers(), self.dy.numbers(), path.rank);
        let rows = dz.len() / rank.max(1);
        let across = |thin: &[f32], wide: &[f32]| {
            let by_column = |data, lanes| Operand::by_column(Elements::F32(data), rows, lanes);
            gemm(&by_column(thin, rank), &by_column(wide, wide.len() / rows.max(1)), Precision::F32)
        };
        let flop = 2 * rank * (x.len() + dy.len());
        Ok(profile::timed("low-rank gradients", flop, || {
            let (a, db_transposed) = (across(dz, x), across(z, dy));
            let outputs = dy.len() / rows.max(1);
            let b = host::build_rows(outputs, rank, |o, out| {
                let of_output = db_transposed[o..].iter().step_by(outputs);
                out.iter_mut().zip(of_output).for_each(|(out, value)| *out = value * path.scale);
            });
            LowRankGradients { a, b }
        }))
    }
}

/// Returns `dx = Σ dy·W + Σ dz·A [T, in]` of the maps of one input, added to `onto` if there is one.
///
/// # Errors
/// Returns an error if there is no map, or the shapes do not fit.
pub fn input_gradient(maps: Vec<Backward>, onto: Option<Gradient>) -> Result<Gradient> {
    let maps = maps.into_iter().map(Backward::settled).collect::<Result<Vec<_>>>()?;
    let inputs = maps.first().map(|map| map.linear.inputs());
    let inputs = inputs.ok_or_else(|| Error::Model("a backward pass without a linear map".into()))?;
    let (mut flop, mut masked, mut segments) = (0, Vec::new(), Vec::new());
    for Backward { linear, packed, .. } in &maps {
        flop += linear.flop(packed.rows());
        segments.push(Segment { a: packed, b: linear.operand(false) });
    }
    for path in maps.iter().flat_map(|map| &map.paths) {
        if path.mask.is_some() {
            masked.push(path);
            continue;
        }
        flop += 2 * path.dz.rows() * path.rank * inputs;
        segments.push(path.segment(inputs));
    }
    let mut dx = profile::timed("linear backward", flop, || match onto {
        Some(mut dx) => {
            add_products(&mut dx.data, &segments);
            dx
        }
        None => Gradient { data: sum_of_products(&segments), columns: inputs },
    });
    for path in masked {
        path.through_mask(&mut dx);
    }
    for (map, (packed, mask)) in maps.iter().flat_map(|map| map.masked.iter().map(move |part| (map, part))) {
        through(mask, Segment { a: packed, b: map.linear.operand(false) }, &mut dx);
    }
    Ok(dx)
}

impl PathBack<'_> {
    /// `dz·A`.
    fn segment(&self, inputs: usize) -> Segment<'_> {
        Segment { a: &self.dz, b: Operand::by_column(Elements::F32(&self.a), self.rank, inputs) }
    }

    /// Adds `mask∘(dz·A)`.
    fn through_mask(&self, dx: &mut Gradient) {
        if let Some(mask) = self.mask {
            through(mask, self.segment(dx.columns), dx);
        }
    }
}

/// Adds a product times dropout factors `[T, in]` to `dx`.
fn through(mask: &Tensor, product: Segment, dx: &mut Gradient) {
    let (mask, through) = (mask.numbers(), sum_of_products(&[product]));
    dx.data.iter_mut().zip(through.iter().zip(mask)).for_each(|(dx, (g, m))| *dx += g * m);
}
