//! `y = x·Wᵀ + b + Σ s·(x·Aᵀ)·Bᵀ`: a frozen linear map and its low-rank paths (Hu et al. 2021, arXiv 2106.09685, eq. 3).
//!
//! With `z = x·Aᵀ [T, r]` kept from the forward pass, the backward pass is
//! `dz = s·dy·B`, `dA = dzᵀ·x`, `dB = s·dyᵀ·z`, `dx = dy·W + dz·A`. A frozen path contributes to `dx` alone.

use candle_core::Tensor;

use super::frozen_linear::Linear;
use super::gemm::{Operand, Precision, gemm, gemm_add};
use super::gradient::Gradient;
use super::{host, oracle, profile};
use crate::error::Result;
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
    /// `dA [r, in]`.
    pub a: Tensor,
    /// `dB [out, r]`.
    pub b: Tensor,
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
/// masked input that `inputs` gives for that path.
///
/// # Errors
/// If the shapes do not fit.
pub fn forward(
    linear: &Linear,
    x: &Tensor,
    paths: &[(LowRank, Option<&Tensor>)],
) -> Result<(Tensor, Vec<Tensor>)> {
    if !x.device().is_cpu() {
        let mut y = linear.reference(x)?;
        let mut kept = Vec::with_capacity(paths.len());
        for (path, input) in paths {
            y = reference(&y, input.unwrap_or(x), path)?;
            kept.push(input.unwrap_or(x).matmul(&path.a.t()?)?);
        }
        return Ok((y, kept));
    }
    let (rows, _) = x.dims2()?;
    let mut y = linear.forward_slice(&host::read(x)?, rows);
    let mut kept = Vec::with_capacity(paths.len());
    for (path, input) in paths {
        let (rank, _) = path.a.dims2()?;
        let flop = 2 * rows * rank * (linear.inputs() + linear.outputs());
        let z = profile::timed("low-rank forward", flop, || -> Result<_> {
            let z = product(&host::read(input.unwrap_or(x))?, rows, &host::read(path.a)?, rank);
            add_up_projection(&mut y, &z, rows, path, linear.outputs())?;
            Ok(z)
        })?;
        kept.push(host::tensor(z, (rows, rank))?);
    }
    Ok((host::tensor(y, (rows, linear.outputs()))?, kept))
}

/// `x [rows, k] · wᵀ` for a row-major `w [outputs, k]`.
fn product(x: &[f32], rows: usize, w: &[f32], outputs: usize) -> Vec<f32> {
    let k = x.len() / rows.max(1);
    let (x, w) = (Operand::by_row(Elements::F32(x), rows, k), Operand::by_row(Elements::F32(w), outputs, k));
    gemm(&x, &w, Precision::F32)
}

/// `y += s·z·Bᵀ`; the scale goes to the small `z`.
fn add_up_projection(y: &mut [f32], z: &[f32], rows: usize, path: &LowRank, outputs: usize) -> Result<()> {
    let scaled: Vec<f32> = z.iter().map(|z| z * path.scale).collect();
    let rank = scaled.len() / rows.max(1);
    let b = host::read(path.b)?;
    let (z, b) = (
        Operand::by_row(Elements::F32(&scaled), rows, rank),
        Operand::by_row(Elements::F32(&b), outputs, rank),
    );
    gemm_add(y, &z, &b, Precision::F32);
    Ok(())
}

/// What backward needs of a path beside the path itself.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// The path's own input `[T, in]`: `x`, or its masked copy under dropout.
    pub x: &'a Tensor,
    /// `z [T, r]` as [`forward`] returned it.
    pub z: &'a Tensor,
    /// The dropout factors `[T, in]`, if there were any.
    pub mask: Option<&'a Tensor>,
}

/// Backward of one path: adds its part of `dx [T, in]` to `dx`, and returns `dA` and `dB` when `trained`.
///
/// # Errors
/// If the shapes do not fit.
pub fn backward(
    dx: &mut Gradient,
    dy: &Tensor,
    path: &LowRank,
    kept: Kept,
    trained: bool,
) -> Result<Option<LowRankGradients>> {
    let Gradient::Host { data: dx, .. } = dx else { return backward_plain(dx, dy, path, kept, trained) };
    let ((rows, outputs), (rank, inputs)) = (dy.dims2()?, path.a.dims2()?);
    let (dy, a, b) = (host::read(dy)?, host::read(path.a)?, host::read(path.b)?);
    let f32s = Elements::F32;
    // dz = s·dy·B [T, r]
    let mut dz = gemm(
        &Operand::by_row(f32s(&dy), rows, outputs),
        &Operand::by_column(f32s(&b), outputs, rank),
        Precision::F32,
    );
    dz.iter_mut().for_each(|dz| *dz *= path.scale);
    let (dz_rows, a_columns) =
        (Operand::by_row(f32s(&dz), rows, rank), Operand::by_column(f32s(&a), rank, inputs));
    match kept.mask {
        None => gemm_add(dx, &dz_rows, &a_columns, Precision::F32),
        Some(mask) => {
            let through = gemm(&dz_rows, &a_columns, Precision::F32);
            let mask = host::read(mask)?;
            dx.iter_mut().zip(through.iter().zip(&*mask)).for_each(|(dx, (g, m))| *dx += g * m);
        }
    }
    if !trained {
        return Ok(None);
    }
    let (x, z) = (host::read(kept.x)?, host::read(kept.z)?);
    let by_rank = |small| Operand::by_column(f32s(small), rows, rank);
    // dA = dzᵀ·x [r, in]; dBᵀ = zᵀ·dy [r, out], so that the long side is the vectorised one.
    let da = gemm(&by_rank(&dz), &Operand::by_column(f32s(&x), rows, inputs), Precision::F32);
    let db_transposed = gemm(&by_rank(&z), &Operand::by_column(f32s(&dy), rows, outputs), Precision::F32);
    let mut db = vec![0.0; outputs * rank];
    for (r, row) in db_transposed.chunks_exact(outputs.max(1)).enumerate() {
        row.iter().enumerate().for_each(|(o, value)| db[o * rank + r] = value * path.scale);
    }
    Ok(Some(LowRankGradients { a: host::tensor(da, (rank, inputs))?, b: host::tensor(db, (outputs, rank))? }))
}

/// [`backward`] in plain tensor operations, off the CPU.
fn backward_plain(
    dx: &mut Gradient,
    dy: &Tensor,
    path: &LowRank,
    kept: Kept,
    trained: bool,
) -> Result<Option<LowRankGradients>> {
    let grads = oracle::gradients(&[kept.x, path.a, path.b], dy, |v| {
        reference(&dy.zeros_like()?, &v[0], &LowRank { a: &v[1], b: &v[2], scale: path.scale })
    })?;
    dx.add(&match kept.mask {
        Some(mask) => (&grads[0] * mask)?,
        None => grads[0].clone(),
    })?;
    Ok(trained.then(|| LowRankGradients { a: grads[1].clone(), b: grads[2].clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_finite_differences, assert_same, noise, numbers};
    use crate::weights::FrozenWeight;

    #[test]
    fn forward_and_every_gradient_match_the_plain_form() {
        let (x, dy) = (noise(&[11, 9], 1), noise(&[11, 20], 2));
        let (a, b) = (noise(&[3, 9], 3), noise(&[20, 3], 4));
        let weight = FrozenWeight::from_f32(numbers(&noise(&[20, 9], 5)), &[20, 9]).unwrap();
        let linear = Linear::new(weight, false, None);
        let path = LowRank { a: &a, b: &b, scale: 1.7 };
        let plain = |x: &Tensor, a: &Tensor, b: &Tensor| {
            reference(&linear.reference(x)?, x, &LowRank { a, b, scale: 1.7 })
        };

        let (y, z) = forward(&linear, &x, &[(path, None)]).unwrap();
        assert_same(&y, &plain(&x, &a, &b).unwrap(), 1e-6, "forward");
        let want = oracle::gradients(&[&x, &a, &b], &dy, |v| plain(&v[0], &v[1], &v[2])).unwrap();
        let kept = Kept { x: &x, z: &z[0], mask: None };
        let mut dx = linear.backward(&dy, None).unwrap();
        let got = backward(&mut dx, &dy, &path, kept, true).unwrap().unwrap();
        let dx = dx.finish().unwrap();
        // Off the CPU the plain form does the same.
        let mut elsewhere = Gradient::Device(linear.backward(&dy, None).unwrap().finish().unwrap());
        let plainly = backward(&mut elsewhere, &dy, &path, kept, true).unwrap().unwrap();
        assert_same(&elsewhere.finish().unwrap(), &dx, 2e-6, "plain dx");
        assert_same(&plainly.a, &got.a, 2e-6, "plain dA");
        assert_same(&plainly.b, &got.b, 2e-6, "plain dB");
        for (got, want, what) in [(&dx, &want[0], "dx"), (&got.a, &want[1], "dA"), (&got.b, &want[2], "dB")] {
            assert_same(got, want, 2e-6, what);
        }
        let run = |x: &Tensor, a: &Tensor, b: &Tensor| {
            Ok(forward(&linear, x, &[(LowRank { a, b, scale: 1.7 }, None)])?.0)
        };
        assert_finite_differences(&x, &dy, &dx, |x| run(x, &a, &b));
        assert_finite_differences(&a, &dy, &got.a, |a| run(&x, a, &b));
        assert_finite_differences(&b, &dy, &got.b, |b| run(&x, &a, b));
    }

    #[test]
    fn a_mask_acts_on_the_path_alone() {
        let (x, dy, mask) = (noise(&[5, 4], 1), noise(&[5, 6], 2), noise(&[5, 4], 7));
        let (a, b) = (noise(&[2, 4], 3), noise(&[6, 2], 4));
        let weight = FrozenWeight::from_f32(numbers(&noise(&[6, 4], 5)), &[6, 4]).unwrap();
        let linear = Linear::new(weight, false, None);
        let path = LowRank { a: &a, b: &b, scale: 0.5 };
        let masked = (&x * &mask).unwrap();
        let (y, z) = forward(&linear, &x, &[(path, Some(&masked))]).unwrap();
        let plain = |x: &Tensor| reference(&linear.reference(x)?, &(x * &mask)?, &path);
        assert_same(&y, &plain(&x).unwrap(), 1e-6, "forward");
        let want = oracle::gradients(&[&x], &dy, |v| plain(&v[0])).unwrap();
        let mut dx = linear.backward(&dy, None).unwrap();
        let kept = Kept { x: &masked, z: &z[0], mask: Some(&mask) };
        assert!(backward(&mut dx, &dy, &path, kept, false).unwrap().is_none());
        assert_same(&dx.finish().unwrap(), &want[0], 2e-6, "dx");
    }
}
