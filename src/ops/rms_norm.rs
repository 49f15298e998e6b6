//! `y = x / √(mean(x²) + ε) · g` (Zhang & Sennrich 2019, arXiv 1910.07467).
//!
//! With n = 1/√(mean(x²) + ε) and u = dy·g: `dx = n·(u − x·n²·mean(u·x))`.

use super::Tensor;
use super::gradient::Gradient;
use super::host;
use super::simd::{sum, vectorised};
use crate::error::Result;

vectorised! {
    fn forward_row(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32]) {
        let _ = FMA;
        let n = inverse(x, eps);
        for ((y, x), g) in y.iter_mut().zip(x).zip(gain) {
            *y = x * n * g;
        }
    }
}

#[inline(always)]
fn inverse(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum(x.len(), |i| x[i] * x[i]) / x.len() as f32 + eps).sqrt()
}

vectorised! {
    fn backward_row(x: &[f32], gain: &[f32], dy: &[f32], eps: f32, dx: &mut [f32]) {
        let _ = FMA;
        let (x, gain, dy) = (&x[..dx.len()], &gain[..dx.len()], &dy[..dx.len()]);
        let n = inverse(x, eps);
        let mean = sum(x.len(), |i| dy[i] * gain[i] * x[i]) / x.len() as f32;
        let along = n * n * n * mean;
        for (i, dx) in dx.iter_mut().enumerate() {
            *dx += n * dy[i] * gain[i] - along * x[i];
        }
    }
}

/// Returns `y [T, D]` for `x [T, D]` and `gain [D]`.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn forward(x: &Tensor, gain: &[f32], eps: f64) -> Result<Tensor> {
    x.expect_columns(gain.len())?;
    let (rows, width) = x.shape();
    let from = x.numbers();
    let row = |r: usize, y: &mut [f32]| forward_row(&from[r * width..(r + 1) * width], gain, eps as f32, y);
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

    /// The plain form over the last dimension of `x [T, D]`, `gain [D]`.
    fn reference(x: &Plain, gain: &[f32], eps: f64) -> Result<Plain> {
        let gain = &Plain::new(gain, x.device())?;
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        Ok(x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(gain)?)
    }

    #[test]
    fn forward_and_backward_match_the_plain_form() {
        let (x, gain, dy) = (noise(&[7, 37], 1), &noise_of(37, 2), noise(&[7, 37], 3));
        let plain = |v: &[Plain]| reference(&v[0], gain, 1e-5);
        assert_same(&forward(&x, gain, 1e-5).unwrap(), &oracle::value(&[&x], plain), 1e-6, "forward");
        let mut dx = Gradient::zeros(7, 37);
        backward(&mut dx, &dy, &x, gain, 1e-5).unwrap();
        let dx = dx.finish().unwrap();
        let want = oracle::gradients(&[&x], &dy, plain).unwrap();
        assert_same(&dx, &want[0], 1e-6, "dx");
        assert_finite_differences(&x, &dy, &dx, |x| forward(x, gain, 1e-5));
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let (x, gain) = (noise(&[3, 4], 1), noise_of(5, 2));
        assert!(forward(&x, &gain, 1e-5).is_err(), "five gains for four features");
        let (dy, mut dx) = (noise(&[2, 4], 3), Gradient::zeros(3, 4));
        assert!(backward(&mut dx, &dy, &x, &gain[..4], 1e-5).is_err(), "two rows for three");
        assert!(backward(&mut dx, &x, &x, &gain, 1e-5).is_err(), "five gains for four features");
        assert!(backward(&mut dx, &x, &x, &gain[..4], 1e-5).is_ok());
    }
}
