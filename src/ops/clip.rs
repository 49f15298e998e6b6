//! `y = min(max(x, −c), c)` (OLMo 1's queries, keys and values). The gradient passes where nothing is clipped.

use candle_core::Tensor;

use crate::error::Result;

/// Returns `y [T, n]` for `x [T, n]`, and the factor of the gradient: 1 where |x| ≤ `size`, else 0.
///
/// # Errors
/// Returns an error if `x` is not f32.
pub fn forward(x: &Tensor, size: f32) -> Result<(Tensor, Tensor)> {
    let passes = x.abs()?.le(size)?.to_dtype(x.dtype())?;
    Ok((x.clamp(-size, size)?, passes))
}

/// Returns `dx [T, n]` for `dy [T, n]`.
///
/// # Errors
/// Returns an error if the shapes differ.
pub fn backward(dy: &Tensor, passes: &Tensor) -> Result<Tensor> {
    Ok((dy * passes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::oracle;
    use crate::ops::testing::{assert_same, noise};

    #[test]
    fn the_gradient_is_that_of_autograd() {
        let (x, dy) = ((noise(&[7, 13], 1) * 2.0).unwrap(), noise(&[7, 13], 2));
        let (y, passes) = forward(&x, 0.5).unwrap();
        let clipped = passes.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let count = clipped.iter().filter(|passes| **passes == 0.0).count();
        assert!(count > 10 && count < 80, "{count} of 91 clipped");
        assert_same(&y, &x.clamp(-0.5f32, 0.5f32).unwrap(), 0.0, "clipped");
        let want = oracle::gradients(&[&x], &dy, |v| Ok(v[0].clamp(-0.5f32, 0.5f32)?)).unwrap();
        assert_same(&backward(&dy, &passes).unwrap(), &want[0], 0.0, "gradient");
    }
}
