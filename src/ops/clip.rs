//! `y = min(max(x, −c), c)` (OLMo 1's queries, keys and values). The gradient passes where nothing is clipped.

use super::Tensor;
use crate::error::Result;

/// Returns `y [T, n]` for `x [T, n]`, and the factor of the gradient: 1 where |x| ≤ `size`, else 0.
pub fn forward(x: &Tensor, size: f32) -> (Tensor, Tensor) {
    (x.map(|x| clipped(x, size)), x.map(|x| f32::from(x.abs() <= size)))
}

/// `min(max(x, −c), c)` as in torch: NaN stays NaN, and c may be negative.
fn clipped(x: f32, size: f32) -> f32 {
    let above = if x < -size { -size } else { x };
    if above > size { size } else { above }
}

/// Returns `dx [T, n]` for `dy [T, n]`.
///
/// # Errors
/// Returns an error if the shapes differ.
pub fn backward(dy: &Tensor, passes: &Tensor) -> Result<Tensor> {
    dy.times(passes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::oracle;
    use crate::ops::testing::{assert_same, noise};

    #[test]
    fn a_negative_bound_and_nan_are_treated_as_in_torch() {
        let x = Tensor::new(vec![-1.0, 0.1, 1.0, f32::NAN], (1, 4)).unwrap();
        assert_eq!(forward(&x, -0.8).0.numbers()[..3], [-0.8; 3]);
        let (y, passes) = forward(&x, 0.5);
        assert!(y.numbers()[..3] == [-0.5, 0.1, 0.5] && y.numbers()[3].is_nan());
        assert_eq!(passes.numbers(), [0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn the_gradient_is_that_of_autograd() {
        let (x, dy) = (noise(&[7, 13], 1).map(|x| 2.0 * x), noise(&[7, 13], 2));
        let (y, passes) = forward(&x, 0.5);
        let count = passes.numbers().iter().filter(|passes| **passes == 0.0).count();
        assert!(count > 10 && count < 80, "{count} of 91 clipped");
        let plain = |v: &[oracle::Plain]| Ok(v[0].clamp(-0.5f32, 0.5f32)?);
        assert_same(&y, &oracle::value(&[&x], plain), 0.0, "clipped");
        let want = oracle::gradients(&[&x], &dy, plain).unwrap();
        assert_same(&backward(&dy, &passes).unwrap(), &want[0], 0.0, "gradient");
    }
}
