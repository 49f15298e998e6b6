//! `y = (x − mean) / √(var + ε) · g + b` (Ba et al. 2016, arXiv 1607.06450).
//!
//! With x̂ the normalised row, n = 1/√(var + ε) and u = dy·g: `dx = n·(u − mean(u) − x̂·mean(u·x̂))`.

use super::Tensor;
use super::gradient::Gradient;
use super::host;
use super::simd::{sum, vectorised};
use crate::error::Result;

/// Returns the mean and 1/√(var + ε) of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = sum(x.len(), |i| x[i]) / x.len() as f32;
    let variance = sum(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / x.len() as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}

vectorised! {
    fn forward_row(x: &[f32], gain: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        let _ = FMA;
        let (mean, n) = moments(x, eps);
        for (((y, x), g), b) in y.iter_mut().zip(x).zip(gain).zip(bias) {
            *y = (x - mean) * n * g + b;
        }
    }
}

vectorised! {
    fn backward_row(x: &[f32], gain: &[f32], dy: &[f32], eps: f32, dx: &mut [f32]) {
        let _ = FMA;
        let (x, gain, dy) = (&x[..dx.len()], &gain[..dx.len()], &dy[..dx.len()]);
        let (mean, n) = moments(x, eps);
        let width = x.len() as f32;
        let straight = sum(x.len(), |i| dy[i] * gain[i]) / width;
        let along = sum(x.len(), |i| dy[i] * gain[i] * (x[i] - mean) * n) / width;
        for (i, dx) in dx.iter_mut().enumerate() {
            *dx += n * (dy[i] * gain[i] - straight - (x[i] - mean) * n * along);
        }
    }
}

/// Returns `y [T, D]` for `x [T, D]`, `gain [D]` and `bias [D]`.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn forward(x: &Tensor, gain: &[f32], bias: &[f32], eps: f64) -> Result<Tensor> {
    x.expect_columns(gain.len())?;
    x.expect_columns(bias.len())?;
    let (rows, width) = x.shape();
    let from = x.numbers();
    let row =
        |r: usize, y: &mut [f32]| forward_row(&from[r * width..(r + 1) * width], gain, bias, eps as f32, y);
    Tensor::new(host::build_rows(rows, width, row), (rows, width))
}

/// Adds the gradient of `x` to `dx [T, D]`.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn backward(dx: &mut Gradient, dy: &Tensor, x: &Tensor, gain: &[f32], eps: f64) -> Result<()> {
    dx.expect(&[x, dy])?;
    x.expect_columns(gain.len())?;
    let width = dx.columns;
    let (x, dy) = (x.numbers(), dy.numbers());
    host::update_rows(&mut dx.data, width, |r, dx| {
        let range = r * width..(r + 1) * width;
        backward_row(&x[range.clone()], gain, &dy[range], eps as f32, dx);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::oracle::{self, Plain};
    use crate::ops::testing::{assert_finite_differences, assert_same, noise, noise_of};
    use candle_core::D;

    /// The plain form over the last dimension of `x [T, D]`; `gain [D]`, `bias [D]`.
    fn reference(x: &Plain, gain: &[f32], bias: &[f32], eps: f64) -> Result<Plain> {
        let (gain, bias) = (&Plain::new(gain, x.device())?, &Plain::new(bias, x.device())?);
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        Ok(centred.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(gain)?.broadcast_add(bias)?)
    }

    #[test]
    fn forward_and_backward_match_the_plain_form() {
        let (x, dy) = (noise(&[7, 37], 1), noise(&[7, 37], 3));
        let (gain, bias) = (&noise_of(37, 2), &noise_of(37, 4));
        let plain = |v: &[Plain]| reference(&v[0], gain, bias, 1e-5);
        let (got, want) = (forward(&x, gain, bias, 1e-5).unwrap(), oracle::value(&[&x], plain));
        assert_same(&got, &want, 1e-6, "forward");
        let mut dx = Gradient::zeros(7, 37);
        backward(&mut dx, &dy, &x, gain, 1e-5).unwrap();
        let dx = dx.finish().unwrap();
        let want = oracle::gradients(&[&x], &dy, plain).unwrap();
        assert_same(&dx, &want[0], 1e-6, "dx");
        assert_finite_differences(&x, &dy, &dx, |x| forward(x, gain, bias, 1e-5));
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let (x, gain) = (noise(&[3, 4], 1), noise_of(5, 2));
        assert!(forward(&x, &gain, &gain, 1e-5).is_err(), "five gains for four features");
        let (dy, mut dx) = (noise(&[2, 4], 3), Gradient::zeros(3, 4));
        assert!(backward(&mut dx, &dy, &x, &gain[..4], 1e-5).is_err(), "two rows for three");
        assert!(backward(&mut dx, &x, &x, &gain, 1e-5).is_err(), "five gains for four features");
        assert!(backward(&mut dx, &x, &x, &gain[..4], 1e-5).is_ok());
    }
}
