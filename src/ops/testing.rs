//! Helpers that the gradient tests share.

use super::Tensor;
use crate::error::Result;

/// Returns a deterministic tensor of numbers in (−1, 1).
pub fn noise(shape: &[usize; 2], seed: u64) -> Tensor {
    Tensor::new(noise_of(shape[0] * shape[1], seed), (shape[0], shape[1])).unwrap()
}

/// Returns `count` deterministic numbers in (−1, 1).
pub fn noise_of(count: usize, seed: u64) -> Vec<f32> {
    (0..count as u64)
        .map(|i| {
            let mut z = (i + 1)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .wrapping_add(seed.wrapping_mul(0xD1B5_4A32_D192_ED03));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        })
        .collect()
}

/// Asserts that two tensors agree within `tolerance` of the larger one's scale.
pub fn assert_same(got: &Tensor, want: &Tensor, tolerance: f32, what: &str) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let (got, want) = (got.numbers(), want.numbers());
    let scale = want.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * scale, "{what}: [{i}] {g} against {w} (scale {scale})");
    }
}

/// Asserts by central differences that `dx` is the gradient of `Σ y·dy`, for a sample of the input elements. The step
/// and the tolerance suit f32 arithmetic on numbers of order one.
pub fn assert_finite_differences(
    x: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
    f: impl Fn(&Tensor) -> Result<Tensor>,
) {
    let (base, dy, dx) = (x.numbers(), dy.numbers(), dx.numbers());
    let loss = |data: Vec<f32>| -> f64 {
        let y = f(&Tensor::new(data, x.shape()).unwrap()).unwrap();
        y.numbers().iter().zip(dy).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum()
    };
    let step = 1e-2f32;
    let scale = dx.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
    for i in (0..base.len()).step_by(1 + base.len() / 40) {
        let shifted = |by: f32| {
            let mut data = base.to_vec();
            data[i] += by;
            loss(data)
        };
        let slope = ((shifted(step) - shifted(-step)) / f64::from(2.0 * step)) as f32;
        assert!(
            (slope - dx[i]).abs() < 1e-2 * scale,
            "[{i}]: slope {slope}, gradient {} (scale {scale})",
            dx[i]
        );
    }
}
