//! `y = x·Wᵀ + b + Σ s·(x·Aᵀ)·Bᵀ`: a frozen linear map and its low-rank paths (Hu et al. 2021, arXiv 2106.09685, eq. 3).
//!
//! With `z = x·Aᵀ [T, r]` kept from the forward pass, the backward pass is
//! `dz = s·dy·B`, `dA = dzᵀ·x`, `dB = s·dyᵀ·z`, `dx = dy·W + dz·A`. A frozen path contributes to `dx` alone.
//!
//! What is shared is done once: an input is packed once for all maps that read it, a low-rank path rides through the
//! output with its map's product, and maps with one input write one `dx` (query, key and value; gate and up).

use std::cell::OnceCell;

use candle_core::Tensor;
use half::bf16;

use super::frozen_linear::Linear;
use super::gemm::{Operand, Packed, Precision, Segment, add_products, gemm, sum_of_products};
use super::gradient::Gradient;
use super::{host, oracle, profile};
use crate::error::{Error, Result};
use crate::weights::Elements;

/// One low-rank path: `A [r, in]`, `B [out, r]`, f32, and the factor `s` of their product.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// `A [r, in]`.
    pub a: &'a Tensor,
    /// `B [out, r]`.
    pub b: &'a Tensor,
    /// `s`: `alpha / r`, or `alpha / √r` for rsLoRA.
    pub scale: f32,
}

/// The gradients of a trained path.
#[derive(Debug)]
pub struct LowRankGradients {
    /// `dA [r, in]`, row-major.
    pub a: Vec<f32>,
    /// `dB [out, r]`, row-major.
    pub b: Vec<f32>,
}

/// An input of several maps: packed when the first of them needs it, for each precision once.
pub struct Input {
    x: Tensor,
    packed: [OnceCell<Packed>; 4],
}

impl Input {
    /// The input `x [T, in]`.
    pub fn new(x: Tensor) -> Self {
        Self { x, packed: [const { OnceCell::new() }; 4] }
    }

    /// `x`.
    pub fn tensor(&self) -> &Tensor {
        &self.x
    }

    fn packed(&self, precision: Precision) -> Result<&Packed> {
        let cell = &self.packed[precision as usize];
        if let Some(packed) = cell.get() {
            return Ok(packed);
        }
        let packed = profile::timed("linear packing", 0, || pack(&self.x, precision))?;
        Ok(cell.get_or_init(|| packed))
    }
}

/// What the thin products beside a map's own are rounded to. Fixed point, which has 13 bits for 64 numbers, would lose
/// the small steps of `A` and `B` (see [`narrow`]).
fn thin(linear: &Linear) -> Precision {
    match linear.precision() {
        Precision::Bf16 => Precision::Bf16,
        Precision::F32 | Precision::Fixed | Precision::Split => Precision::F32,
    }
}

/// What the second factor of a low-rank path is rounded to, so that it rides through the output with its map's product.
fn riding(linear: &Linear) -> Precision {
    match linear.precision() {
        Precision::F32 | Precision::Fixed => Precision::F32,
        Precision::Bf16 | Precision::Split => Precision::Split,
    }
}

/// A tensor `[T, k]` as the left operand of products.
fn pack(x: &Tensor, precision: Precision) -> Result<Packed> {
    let ((rows, width), x) = (x.dims2()?, host::read(x)?);
    Ok(Packed::new(&Operand::by_row(Elements::F32(&x), rows, width), precision))
}

/// The plain form of one path, added to `y`.
///
/// # Errors
/// If the shapes do not fit.
pub fn reference(y: &Tensor, x: &Tensor, path: &LowRank) -> Result<Tensor> {
    let z = x.matmul(&path.a.t()?)?;
    Ok((y + (z.matmul(&path.b.t()?)? * f64::from(path.scale))?)?)
}

/// Forward: `x [T, in] → y [T, out]`, and `z = x'·Aᵀ [T, r]` of each path, where `x'` is `x` or, under dropout, the
/// masked input that stands beside the path.
///
/// # Errors
/// If the shapes do not fit.
pub fn forward(
    linear: &Linear,
    input: &Input,
    paths: &[(LowRank, Option<&Tensor>)],
) -> Result<(Tensor, Vec<Tensor>)> {
    let x = input.tensor();
    if !x.device().is_cpu() {
        let mut y = linear.reference(x)?;
        let mut kept = Vec::with_capacity(paths.len());
        for (path, masked) in paths {
            y = reference(&y, masked.unwrap_or(x), path)?;
            kept.push(masked.unwrap_or(x).matmul(&path.a.t()?)?);
        }
        return Ok((y, kept));
    }
    let ((rows, _), packed) = (x.dims2()?, input.packed(linear.precision())?);
    let (mut kept, mut ups) = (Vec::with_capacity(paths.len()), Vec::with_capacity(paths.len()));
    for (path, masked) in paths {
        let (rank, inputs) = path.a.dims2()?;
        let z = profile::timed("low-rank forward", 2 * rows * rank * inputs, || -> Result<_> {
            let a = host::read(path.a)?;
            Ok(match masked {
                Some(masked) => narrow(&pack(masked, thin(linear))?, &a, rank, Side::Rows),
                None => narrow(input.packed(thin(linear))?, &a, rank, Side::Rows),
            })
        })?;
        ups.push((scaled(&z, path.scale, rank, riding(linear)), host::read(path.b)?, rank));
        kept.push(host::tensor(z, (rows, rank))?);
    }
    let ranks: usize = ups.iter().map(|(_, _, rank)| rank).sum();
    let flop = linear.flop(rows) + 2 * rows * ranks * linear.outputs();
    let y = profile::timed("linear forward", flop, || {
        let more = ups
            .iter()
            .map(|(z, b, rank)| Segment {
                a: z,
                b: Operand::by_row(Elements::F32(b), linear.outputs(), *rank),
            })
            .collect();
        linear.products(packed, more)
    });
    Ok((host::tensor(y, (rows, linear.outputs()))?, kept))
}

/// How a thin matrix stands in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// `[r, k]`, as `A`.
    Rows,
    /// `[k, r]`, as `B`.
    Columns,
}

/// `x [T, k]` times a thin f32 matrix: `[T, r]`. Where packing rounded `x` to bf16 the thin matrix enters as two bf16
/// terms that hold 16 of its 24 bits, for the price of one panel: its small steps are not lost to rounding.
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
    let mut sums = Vec::with_capacity(both.len() / 2);
    for row in both.chunks_exact(2 * rank.max(1)) {
        let (high, low) = row.split_at(rank);
        sums.extend(high.iter().zip(low).map(|(high, low)| high + low));
    }
    sums
}

/// Behind each `run` of numbers what rounding them to bf16 leaves.
fn split(numbers: &[f32], run: usize) -> Vec<f32> {
    let mut out = vec![0.0; 2 * numbers.len()];
    for (from, to) in numbers.chunks_exact(run).zip(out.chunks_exact_mut(2 * run)) {
        let (high, low) = to.split_at_mut(run);
        high.copy_from_slice(from);
        low.iter_mut().zip(from).for_each(|(low, x)| *low = x - bf16::from_f32(*x).to_f32());
    }
    out
}

/// `s·z [T, r]` as a left operand: the scale goes to the small factor.
fn scaled(z: &[f32], scale: f32, rank: usize, precision: Precision) -> Packed {
    let scaled: Vec<f32> = z.iter().map(|z| z * scale).collect();
    let rows = scaled.len() / rank.max(1);
    Packed::new(&Operand::by_row(Elements::F32(&scaled), rows, rank), precision)
}

/// What backward needs of a path beside the path itself.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// The path's own input `[T, in]`: `x`, or its masked copy under dropout. Only gradients of the path need it.
    pub x: Option<&'a Tensor>,
    /// `z [T, r]` as [`forward`] returned it.
    pub z: &'a Tensor,
    /// The dropout factors `[T, in]`, if there were any.
    pub mask: Option<&'a Tensor>,
    /// Whether its gradients are wanted.
    pub trained: bool,
}

/// A map, the gradient of its output `[T, out]`, and its paths. Branches read one input.
pub struct Branch<'a> {
    /// The map.
    pub linear: &'a Linear,
    /// `dy [T, out]`.
    pub dy: &'a Tensor,
    /// Its paths and what they kept.
    pub paths: Vec<(LowRank<'a>, Kept<'a>)>,
}

/// Backward of the maps of one input: `dx [T, in]`, added to `onto` if there is one, and the gradients of the trained
/// paths in order.
///
/// # Errors
/// If the shapes do not fit.
pub fn backward(branches: &[Branch], onto: Option<Gradient>) -> Result<(Gradient, Vec<LowRankGradients>)> {
    let Some(first) = branches.first() else {
        return Err(Error::Model("a backward pass without a linear map".into()));
    };
    if !first.dy.device().is_cpu() {
        return backward_plain(branches, onto);
    }
    let rows = first.dy.dims2()?.0;
    let mut dys = Vec::with_capacity(branches.len());
    let mut paths = Vec::new();
    for branch in branches {
        let packed = profile::timed("linear packing", 0, || pack(branch.dy, branch.linear.precision()))?;
        let beside = thin(branch.linear);
        let wide = (!branch.paths.is_empty() && beside != branch.linear.precision())
            .then(|| profile::timed("linear packing", 0, || pack(branch.dy, beside)))
            .transpose()?;
        let wide = wide.as_ref().unwrap_or(&packed);
        for (path, kept) in &branch.paths {
            let (outputs, rank) = path.b.dims2()?;
            // dz = s·dy·B [T, r]
            let mut dz = profile::timed("low-rank backward", 2 * rows * rank * outputs, || {
                Ok::<_, Error>(narrow(wide, &host::read(path.b)?, rank, Side::Columns))
            })?;
            dz.iter_mut().for_each(|dz| *dz *= path.scale);
            paths.push(PathGradient {
                path: *path,
                kept: *kept,
                dy: branch.dy,
                packed: scaled(&dz, 1.0, rank, riding(branch.linear)),
                dz,
                rank,
            });
        }
        dys.push(packed);
    }
    let mut dx = input_gradient(branches, &dys, &paths, onto)?;
    drop(dys);
    let mut gradients = Vec::new();
    for path in &paths {
        path.through_mask(&mut dx)?;
        if path.kept.trained {
            gradients.push(path.gradients()?);
        }
    }
    Ok((dx, gradients))
}

/// `dx = Σ dy·W + Σ dz·A`, but for masked paths.
fn input_gradient(
    branches: &[Branch],
    dys: &[Packed],
    paths: &[PathGradient],
    onto: Option<Gradient>,
) -> Result<Gradient> {
    let inputs = branches[0].linear.inputs();
    let mut flop = 0;
    let mut segments = Vec::new();
    for (branch, dy) in branches.iter().zip(dys) {
        flop += branch.linear.flop(dy.rows());
        segments.push(Segment { a: dy, b: branch.linear.operand(false) });
    }
    let plain: Vec<&PathGradient> = paths.iter().filter(|path| path.kept.mask.is_none()).collect();
    let factors = plain.iter().map(|p| host::read(p.path.a)).collect::<Result<Vec<_>>>()?;
    for (path, a) in plain.iter().zip(&factors) {
        flop += 2 * path.packed.rows() * path.rank * inputs;
        let a = Operand::by_column(Elements::F32(a), path.rank, inputs);
        segments.push(Segment { a: &path.packed, b: a });
    }
    Ok(profile::timed("linear backward", flop, || match onto {
        Some(Gradient::Host { mut data, columns }) => {
            add_products(&mut data, &segments);
            Gradient::Host { data, columns }
        }
        _ => Gradient::Host { data: sum_of_products(&segments), columns: inputs },
    }))
}

/// A path on its way back.
struct PathGradient<'a> {
    path: LowRank<'a>,
    kept: Kept<'a>,
    dy: &'a Tensor,
    /// `s·dy·B [T, r]`.
    dz: Vec<f32>,
    packed: Packed,
    rank: usize,
}

impl PathGradient<'_> {
    /// Adds `mask∘(dz·A)` where there is a mask.
    fn through_mask(&self, dx: &mut Gradient) -> Result<()> {
        let (Some(mask), Gradient::Host { data, columns }) = (self.kept.mask, dx) else { return Ok(()) };
        let (a, mask) = (host::read(self.path.a)?, host::read(mask)?);
        let a = Operand::by_column(Elements::F32(&a), self.rank, *columns);
        let through = sum_of_products(&[Segment { a: &self.packed, b: a }]);
        data.iter_mut().zip(through.iter().zip(&*mask)).for_each(|(dx, (g, m))| *dx += g * m);
        Ok(())
    }

    /// `dA = dzᵀ·x [r, in]` and `dB = s·dyᵀ·z [out, r]`, the long sides vectorised.
    fn gradients(&self) -> Result<LowRankGradients> {
        let x = self.kept.x.ok_or_else(no_input)?;
        let (x, z, dy) = (host::read(x)?, host::read(self.kept.z)?, host::read(self.dy)?);
        let rows = self.dz.len() / self.rank.max(1);
        let across = |thin: &[f32], wide: &[f32]| {
            let by_column = |data, lanes| Operand::by_column(Elements::F32(data), rows, lanes);
            gemm(&by_column(thin, self.rank), &by_column(wide, wide.len() / rows.max(1)), Precision::F32)
        };
        let flop = 2 * self.rank * (x.len() + dy.len());
        Ok(profile::timed("low-rank gradients", flop, || {
            let (a, db_transposed) = (across(&self.dz, &x), across(&z, &dy));
            let outputs = dy.len() / rows.max(1);
            let mut b = vec![0.0; outputs * self.rank];
            for (r, row) in db_transposed.chunks_exact(outputs.max(1)).enumerate() {
                row.iter().enumerate().for_each(|(o, value)| b[o * self.rank + r] = value * self.path.scale);
            }
            LowRankGradients { a, b }
        }))
    }
}

fn no_input() -> Error {
    Error::Model("a backward pass needs an input that was not kept".into())
}

/// [`backward`] in plain tensor operations, off the CPU.
fn backward_plain(branches: &[Branch], onto: Option<Gradient>) -> Result<(Gradient, Vec<LowRankGradients>)> {
    let mut dx = onto;
    let mut gradients = Vec::new();
    let add = |dx: &mut Option<Gradient>, part: Tensor| match dx {
        Some(sum) => sum.add(&part),
        None => {
            *dx = Some(Gradient::of(&part)?);
            Ok(())
        }
    };
    for Branch { linear, dy, paths } in branches {
        let weight = linear.weight().to_tensor(dy.device())?;
        add(&mut dx, if linear.transposed() { dy.matmul(&weight.t()?)? } else { dy.matmul(&weight)? })?;
        for (path, kept) in paths {
            let grads = oracle::gradients(&[kept.x.ok_or_else(no_input)?, path.a, path.b], dy, |v| {
                reference(&dy.zeros_like()?, &v[0], &LowRank { a: &v[1], b: &v[2], scale: path.scale })
            })?;
            let through = match kept.mask {
                Some(mask) => (&grads[0] * mask)?,
                None => grads[0].clone(),
            };
            add(&mut dx, through)?;
            if kept.trained {
                let numbers = |t: &Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
                gradients.push(LowRankGradients { a: numbers(&grads[1])?, b: numbers(&grads[2])? });
            }
        }
    }
    dx.map(|dx| (dx, gradients)).ok_or_else(|| Error::Model("no linear map".into()))
}

#[cfg(test)]
mod tests;
